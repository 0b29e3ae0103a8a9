"""Lightning callbacks that measure a model while it trains, by the metrics and the pipeline."""
