"""Training parts that all stages share: runs and how they are continued, optimiser, parallelism, checkpoints."""
