"""Numbers from tensors: no trainer, no files."""
