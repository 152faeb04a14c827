"""Products with a sparse (pruned) weight and a fused epilogue. See README.md beside this file."""
