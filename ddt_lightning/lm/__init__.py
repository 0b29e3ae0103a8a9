"""Ids to ids: the language model over text and image tokens."""
