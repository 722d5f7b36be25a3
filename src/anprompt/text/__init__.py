"""Wording: templates, description banks, noise strategies. Knows no model and no data set."""

from anprompt.text.bank import ClassTexts, DescriptionBank, read_bank
from anprompt.text.templates import DEFAULT_TEMPLATE, ENSEMBLE, PARAPHRASES, check_template, fill

__all__ = [
    "DEFAULT_TEMPLATE",
    "ENSEMBLE",
    "PARAPHRASES",
    "ClassTexts",
    "DescriptionBank",
    "check_template",
    "fill",
    "read_bank",
]
