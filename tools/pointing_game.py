"""How often a map's maximum lies on the object, and what deletion says, on toy-world pictures: docs/explain.md.

    python tools/pointing_game.py [ADAPTER] [--domain photo] [--pictures 4] [--deleted 24] [--seed 0]

Prints one JSON document: for zero-shot on the miniature, and for an adapter, each kind of map. The middle of the
picture and a random patch are what a map must beat; the middle is on the object in most of these pictures, so hits are
also counted on the pictures where it is not.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anprompt import PromptClassifier, methods
from anprompt.analysis.explain import Kind, deletion, maps_for
from anprompt.clip import load_backbone
from anprompt.data import toyworld


def share(hits: torch.Tensor) -> float:
    return round(100 * float(hits.double().mean()), 1)


def measure(
    method: methods.Method, pixels: torch.Tensor, labels: torch.Tensor, masks: torch.Tensor, deleted: int, seed: int
) -> dict[str, Any]:
    """Per kind of map: hits in per cent on all pictures and where the middle is off the object, and deletion areas."""
    size, size_of_patch = masks.shape[1], method.backbone.config.patch_size
    middle, found = masks[:, size // 2, size // 2], {}
    runner_up = method.logits(pixels).scatter(1, labels[:, None], -torch.inf).argmax(dim=1)
    tried: list[tuple[str, Kind, torch.Tensor | None]] = [
        ("cam", "cam", None), ("grad-cam", "grad-cam", None), ("rollout", "rollout", None),
        ("cam against the runner-up", "cam", runner_up),
    ]  # fmt: skip
    for name, kind, against in tried:
        maps = maps_for(method, pixels, labels, against, kind=kind)
        rows, columns = (size_of_patch * at + size_of_patch // 2 for at in _peaks(maps))
        hits = masks[torch.arange(len(maps)), rows, columns] & (maps.amax(dim=(1, 2)) > 0)
        found[name] = {"hits": share(hits), "hits_off_middle": share(hits[~middle]),
                       "empty": share(maps.amax(dim=(1, 2)) == 0)}  # fmt: skip
        if deleted and against is None:
            step = max(1, len(maps) // deleted)
            scores = deletion(method, pixels[::step], labels[::step], maps[::step], seed=seed)
            found[name] |= {
                "deletion": round(float(np.mean([score.area for score in scores])), 3),
                "random": round(float(np.mean([score.random_area for score in scores])), 3),
                "random_orders_beaten": round(100 * float(np.mean([score.beaten for score in scores])), 1),
                "deleted_pictures": len(scores),
            }
    return found


def _peaks(maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    at = maps.flatten(1).argmax(dim=1)
    return at // maps.shape[2], at % maps.shape[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", nargs="?", type=Path)
    parser.add_argument("--domain", default="photo", choices=toyworld.DOMAINS)
    parser.add_argument("--pictures", type=int, default=4, help="test pictures of each class")
    parser.add_argument("--deleted", type=int, default=24, help="evenly spaced pictures for deletion; 0: none")
    parser.add_argument("--seed", type=int, default=0, help="of the pictures and of the random orders")
    chosen = parser.parse_args()
    backbone, names = load_backbone("miniature"), list(toyworld.class_names("shapes"))
    every = [(i, index) for i in range(len(names)) for index in range(chosen.pictures)]
    drawn = {"domain": chosen.domain, "split": "test", "seed": chosen.seed}
    pixels = backbone.preprocess([toyworld.render(names[i], index=index, **drawn) for i, index in every])
    masks = torch.from_numpy(np.stack([toyworld.mask(names[i], index=index, **drawn) for i, index in every]))
    labels = torch.tensor([i for i, _ in every])
    tried = {"zero-shot": methods.create("zero-shot", backbone, names)}
    if chosen.adapter is not None:
        method = PromptClassifier.load(chosen.adapter, backbone).with_classes(names).method_
        tried[method.name] = method
    result = {
        "domain": chosen.domain, "pictures": len(every), "seed": chosen.seed,
        "middle": share(masks[:, 24, 24]), "random_patch": share(masks),
        **{name: measure(method, pixels, labels, masks, chosen.deleted, chosen.seed) for name, method in tried.items()},
    }  # fmt: skip
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
