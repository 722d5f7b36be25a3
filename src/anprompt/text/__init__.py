"""Wording: templates, description banks, noise strategies. Knows no model and no data set."""

from anprompt.text.bank import ClassTexts, DescriptionBank, Rewrite
from anprompt.text.bank_files import bank_of, described, load_bank, of_classes, read_bank, write_bank
from anprompt.text.bank_tools import BankReport, check_bank, deduplicate, merge_banks, pair_banks, split_bank
from anprompt.text.templates import DEFAULT_TEMPLATE, ENSEMBLE, PARAPHRASES, check_template, fill

__all__ = [
    "DEFAULT_TEMPLATE",
    "ENSEMBLE",
    "PARAPHRASES",
    "BankReport",
    "ClassTexts",
    "DescriptionBank",
    "Rewrite",
    "bank_of",
    "check_bank",
    "check_template",
    "deduplicate",
    "described",
    "fill",
    "load_bank",
    "merge_banks",
    "of_classes",
    "pair_banks",
    "read_bank",
    "split_bank",
    "write_bank",
]
