"""What a crop is: boxes, windows, jitter, resampling, JPEG."""
