"""The layers: tables or a gate for the combining weights, bases, and how they start."""
