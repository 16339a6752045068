"""What a local layer learned: its distance from a convolution, and maps over the image."""
