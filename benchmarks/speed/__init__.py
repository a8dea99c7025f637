"""How fast is it? Ours and the peers' on the same work, in turn, in one go: `make bench`, or `make bench-quick` in 15 minutes."""
