"""Plans: command lines in order, each skipped when it is done, continued when it was stopped."""
