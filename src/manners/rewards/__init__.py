"""Rewards: everything that gives a number to an answer."""
