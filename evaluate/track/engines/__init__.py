"""What computes a tracker's network: PyTorch, or a runtime of exported graphs."""
