"""One module per kernel: its contract as data."""
