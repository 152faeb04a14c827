"""Matrix products with a fused epilogue. See README.md beside this file."""
