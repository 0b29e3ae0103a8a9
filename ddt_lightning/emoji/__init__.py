"""The emoji world: Unicode's metadata to captions, plans, edits, questions and held-out parts, as pure functions."""
