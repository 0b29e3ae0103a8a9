"""Evaluation: a model folder to scores with intervals, upper bounds and baselines; a file for each thing measured."""
