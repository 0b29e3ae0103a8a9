"""Experiments of the paper: runs side by side, their tables and pictures, on one base."""
