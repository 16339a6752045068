"""Surgery on networks: convolutions become local layers, and local layers convolutions."""
