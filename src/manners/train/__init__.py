"""The methods: one file, one loop each. None imports another."""
