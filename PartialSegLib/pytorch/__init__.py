"""PyTorch on this machine: devices, precision, arrays as tensors, and what it may unpickle."""
