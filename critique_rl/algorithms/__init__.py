"""One small file per method: it stamps per-token weights and targets on samples, and nothing else."""
