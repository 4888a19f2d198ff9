"""The network on a device: number types, compilation, merged weights."""
