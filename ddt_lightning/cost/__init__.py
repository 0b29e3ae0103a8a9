"""Memory, arithmetic and time of training a configuration, before it is trained."""
