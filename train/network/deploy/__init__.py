"""The network at work: devices and number types, compilation, graphs that run elsewhere."""

RUNTIMES = {".onnx": "onnx", ".xml": "openvino"}
"""How a graph file's name ends → what computes it, and the extra that brings that."""
