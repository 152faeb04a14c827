"""Examples: models as people write them, training through tilewright, and several processes: see README.md."""
