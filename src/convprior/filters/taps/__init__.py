"""Tap profiles: how large the taps of a network's filters are."""
