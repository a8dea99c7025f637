"""Tensor operations that every method shares. They know torch and nothing else."""
