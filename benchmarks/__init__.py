"""Measurements of speed and memory; ``docs/speed.md`` says how to run them and how to read the numbers."""
