"""The network at work: devices and number types, compilation, graphs that run elsewhere."""
