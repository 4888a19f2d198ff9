"""What a run leaves to go on from, when, and what may not change in between."""
