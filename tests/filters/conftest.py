"""Hypothesis for this folder: no deadline, since a shared machine stalls; reproducible examples."""

from hypothesis import settings

settings.register_profile("filters", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("filters")
