"""When to measure: Lightning callbacks over metrics and the pipeline."""
