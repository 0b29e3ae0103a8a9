"""Disk to batches: WebDataset shards of images, token ids and conversations."""
