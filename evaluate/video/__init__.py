"""One's own video: read, tracked, drawn."""
