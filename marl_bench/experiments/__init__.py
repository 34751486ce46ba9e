"""What to run: cells, sweeps, papers."""
