"""A web page to play with a model: draw, edit, ask, look at tokens, and watch a training."""
