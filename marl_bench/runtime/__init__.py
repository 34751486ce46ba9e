"""How it runs: runner, packs, devices, checkpoints, sinks."""
