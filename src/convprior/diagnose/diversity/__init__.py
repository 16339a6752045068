"""Feature diversity: whether features that vary little mean predictions that are random."""
