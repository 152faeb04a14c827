"""tilewright: hand-written, autotuned kernels for PyTorch."""
