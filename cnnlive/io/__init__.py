"""Readers of other forms of a network; what they need is imported inside their functions."""
