"""Examples: models as people write them, training through tilewright, and several processes. See README.md here."""
