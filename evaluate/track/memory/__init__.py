"""What a tracking method remembers of its targets."""
