"""Class texts that a backbone cannot tell apart."""

from __future__ import annotations

import torch

from anprompt.clip import Backbone
from anprompt.errors import Finding
from anprompt.text import PARAPHRASES, fill
from anprompt.text.lint import alike_texts

# The yardstick is the backbone's own: how near it takes two wordings of one class to be. It is not taken to be below
# LOW: a backbone on which mere wording moves texts far would have every pair reported. Measured: docs/datasets.md.
LOW = 0.98
MEASURED = 50  # classes that the yardstick is measured on


@torch.no_grad()
def lint_class_texts(backbone: Backbone, template: str, names: tuple[str, ...]) -> list[Finding]:
    """Classes whose text features are nearer to each other than wordings of one class usually are."""
    features = backbone.encode_text(fill(template, names))  # (C, d)
    some = slice(None, None, -(-len(names) // MEASURED))
    reworded = torch.stack([backbone.encode_text(fill(other, names[some])) for other in PARAPHRASES])  # (P, c, d)
    usual = float((features[some] * reworded).sum(dim=-1).median())
    cosine = (features @ features.T).cpu().double().numpy()  # (C, C)
    found = alike_texts(names, cosine, max(LOW, usual))
    return [] if found is None else [found]
