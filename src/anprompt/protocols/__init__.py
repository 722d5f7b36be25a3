"""Benchmarks: the protocols of the field as lists of runs, their recipes, and what executes them.

Nothing is imported here: worker processes begin with ``executors``, which needs no torch.
"""
