"""The models that `tilewright.tuner.cost_model` ranks by, a file for each operation."""
