"""Models: the starter, loading, one trunk with small trainable parts on it, and their files."""
