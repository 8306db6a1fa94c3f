"""The connections to engines, and what engines say when they fail."""
