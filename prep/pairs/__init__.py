"""Which frames make sample i, and the windows that are cut from them."""
