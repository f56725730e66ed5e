"""Planners: each answers one question about a lowered graph."""
