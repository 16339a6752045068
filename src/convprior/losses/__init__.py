"""Losses that weigh examples by the diversity of their features, and those to compare them with."""
