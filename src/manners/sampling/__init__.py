"""Samplers: prompts in, rollouts out."""
