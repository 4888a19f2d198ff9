"""What every package needs and what knows nothing of tracking: errors, files, stores, processes."""
