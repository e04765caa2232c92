"""What computes a network: PyTorch or OpenVINO, with how much effort."""
