"""The benchmark of convolutions and their gradients."""
