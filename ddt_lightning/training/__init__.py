"""What every stage needs and no stage owns: optimiser, parallelism, checkpoints."""
