"""Written principles in place of people: a model critiques, revises and compares answers under a constitution."""
