"""A file for each data set, or family of them: where its frames, boxes and flags stand."""
