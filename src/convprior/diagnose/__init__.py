"""What a network learned, measured on data: the diversity of its features."""
