"""Metrics and run records: results are data, never parsed from logs."""

from anprompt.results.metrics import evaluate_predictions, harmonic_mean
from anprompt.results.record import describe_machine, make_record, write_record

__all__ = ["describe_machine", "evaluate_predictions", "harmonic_mean", "make_record", "write_record"]
