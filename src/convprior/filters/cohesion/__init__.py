"""Feature cohesion: why the center could be large, and a prediction to test it."""
