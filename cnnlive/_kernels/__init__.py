"""Compiled loops: arrays in, arrays out; they know nothing of graphs.

Each file stands alone: it imports numpy, the decorator and type aliases, nothing compiled.
"""
