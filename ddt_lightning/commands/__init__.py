"""The `ddt` command: one small file per group of verbs."""
