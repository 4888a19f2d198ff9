"""One file a data set: where its frames, boxes and flags stand."""
