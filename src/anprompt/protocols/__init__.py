"""Benchmarks: the protocols of the field as lists of runs, their recipes, and what executes them."""

from anprompt.protocols.declare import Asked, declare
from anprompt.protocols.runs import PROTOCOLS, Bench, Evaluation, Run, Target, Task

__all__ = ["PROTOCOLS", "Asked", "Bench", "Evaluation", "Run", "Target", "Task", "declare"]
