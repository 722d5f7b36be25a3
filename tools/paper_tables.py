"""Make ``src/anprompt/assets/paper_tables.json`` from the paper's tables as data, under this package's names.

    python tools/paper_tables.py ../shared/paper/tables.json src/anprompt/assets/paper_tables.json

Numbers are copied as printed; only names change: benchmarks as in ``anprompt.data.benchmarks``, methods as in
``METHODS``, ablation rows as the options of the method ``anprompt`` that they stand for.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from anprompt.data.benchmarks import find_benchmark
from anprompt.files import write_text

METHODS = {
    "CLIP": "zero-shot", "CoOp": "coop", "CoCoOp": "cocoop", "KgCoOp": "kgcoop", "ProGrad": "prograd",
    "MaPLe": "maple", "PromptSRC": "promptsrc", "CoPrompt": "coprompt", "TextRefiner": "textrefiner", "TAC": "tac",
    "DAPT": "dapt", "HiCroPL": "hicropl", "MMRL": "mmrl", "SurPL-G": "surpl", "LwEIB": "lweib", "BIP": "bip",
    "BIP-D": "bip", "ANPrompt": "anprompt",
}  # fmt: skip
COMPONENTS = ("text_noise", "wa_loss", "anti_prompt")
# Table: (key in the paper's data, title, option, the paper's choice, other names of it)
ABLATIONS: dict[str, tuple[str, str, str, Any, dict[str, Any]]] = {
    "V": ("V_prompt_length", "length of the prompt", "prompt_length", 5, {}),
    "VI": ("VI_alpha", "weight α of the noise feature", "alpha", 0.001, {}),
    "VII": ("VII_wa_distance", "distance of the weak alignment loss", "distance", "kl", {}),
    "VIII": ("VIII_theta", "weight θ of the alignment logits", "theta", 0.7, {}),
    "IX": ("IX_gamma", "weight γ of the weak alignment loss", "gamma", "std", {}),
    "X": ("X_noise", "kind of noise", "noise_source", "bank", {"bank": "weak"}),
    "XI": ("XI_layers", "layers with prompts", "layers", "6-12", {}),
}


def cell(numbers: dict[str, float]) -> dict[str, float]:
    """One cell, with ``new`` for the paper's ``novel``."""
    return {"new" if name == "novel" else name: value for name, value in numbers.items()}


def data_set(title: str) -> str:
    return "average" if title == "Average" else find_benchmark(title).name


def base_to_new(table: dict[str, Any]) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for title, methods in table.items():
        for printed, numbers in methods.items():
            rows.setdefault(METHODS[printed], {})[data_set(title)] = cell(numbers)
    return rows


def accuracies(table: dict[str, Any]) -> dict[str, Any]:
    return {
        METHODS[printed]: {data_set(title): {"accuracy": value} for title, value in row.items()}
        for printed, row in table.items()
    }


def ablations(tables: dict[str, Any]) -> dict[str, Any]:
    components = [
        {"variant": {name: bool(row[name]) for name in COMPONENTS}, "hm": row["hm"]}
        for row in tables["IV_components_hm"]
    ]
    made: dict[str, Any] = {
        "IV": {"title": "components", "own": dict.fromkeys(COMPONENTS, True), "rows": components},
    }
    for name, (key, title, option, own, printed) in ABLATIONS.items():
        ours = {there: here for here, there in printed.items()}
        kind = type(own)
        rows = [{"variant": {option: ours.get(value, kind(value))}, **cell(row)} for value, row in tables[key].items()]
        made[name] = {"title": title, "own": {option: own}, "rows": rows}
    made["XI"]["same"] = {"last-7": "6-12"}  # in towers of 12 blocks
    made["X"]["beside"] = {"dapt": {"hm": 79.35}}  # the caption of Figure 1
    return made


def build(tables: dict[str, Any]) -> dict[str, Any]:
    """The packaged document."""
    gain = tables["fig6_few_shot_gain_over_maple"]
    printed = re.search(r"DTD 16 shots: ANPrompt ([\d.]+)", gain["note"])  # the only accuracy of Figure 6 in print
    assert printed is not None
    return {
        "about": "Accuracies in per cent as printed in Gao, Zheng, Wang: Robust Prompt Tuning for Vision-Language "
        "Models with Mild Semantic Noise (ANPrompt), https://arxiv.org/abs/2508.04677, Tables I to XI and the numbers "
        "that its text gives for Figure 6. Backbone: OpenAI's CLIP ViT-B/16. Ablations are averages over the eleven "
        "data sets of Table I.",
        "backbone": "ViT-B/16",
        "methods": {name: [here for here, ours in METHODS.items() if ours == name] for name in METHODS.values()},
        "accuracy": {
            "base-to-new": base_to_new(tables["I_base_to_novel"]),
            "cross-dataset": accuracies(tables["II_cross_dataset"]),
            "domain-generalisation": accuracies(tables["III_domain_generalization"]),
            "few-shot": {"anprompt": {"dtd": {"16": float(printed.group(1))}}},
        },
        "few-shot gain": {
            "of": "anprompt", "over": "maple", "by shots": {shots: gain[shots] for shots in ("1", "2", "4", "8", "16")}
        },
        "ablations": ablations(tables),
    }  # fmt: skip


def dump(value: Any, indent: str = "") -> str:
    """JSON with one line per innermost object."""
    if isinstance(value, dict) and any(isinstance(entry, dict | list) for entry in value.values()):
        inner = [f"{indent}  {json.dumps(key)}: {dump(entry, indent + '  ')}" for key, entry in value.items()]
        return "{\n" + ",\n".join(inner) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(entry, dict) for entry in value):
        return "[\n" + ",\n".join(f"{indent}  {json.dumps(entry)}" for entry in value) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    write_text(target, dump(build(json.loads(source.read_text(encoding="utf-8")))) + "\n")
