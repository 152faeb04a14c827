"""Whole models in inference: `tilewright.examples.models`, end to end."""
