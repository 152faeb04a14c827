"""conv2d: two-dimensional convolution (cross-correlation) with a fused epilogue, and its gradients."""
