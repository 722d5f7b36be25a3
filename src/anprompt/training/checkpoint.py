"""The state of a run in one safetensors file, replaced atomically: learnables, frozen prompts, optimiser, position."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from anprompt.errors import UserError
from anprompt.files import atomic_path
from anprompt.methods.base import Method
from anprompt.outputs import metadata_of

FILE = "state.safetensors"


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name, as on the command line: ``{"recipe": {"lr": 1}}`` -> ``{"recipe.lr": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def changes(saved: dict[str, Any], given: dict[str, Any]) -> str:
    """Single entries that differ, as in ``recipe.epochs: 1 → 10``; an empty string if none does."""
    before, now = flatten(saved), flatten(given)
    different = sorted(key for key in {**before, **now} if before.get(key) != now.get(key))
    return "; ".join(f"{key}: {before.get(key)} → {now.get(key)}" for key in different)


def save_state(
    folder: Path, method: Method, optimizer: torch.optim.Optimizer, epoch: int, step: int, fingerprint: dict[str, Any]
) -> None:
    """Write the state before step ``step`` of epoch ``epoch`` (both from 0)."""
    tensors = {f"method.{name}": tensor for name, tensor in method.state_dict().items()}
    tensors |= {f"training.{name}": tensor for name, tensor in method.training_state().items()}
    for index, entries in optimizer.state_dict()["state"].items():
        for key, value in entries.items():
            if value is not None:  # SGD keeps None for parameters without a gradient
                tensors[f"optimizer.{index}.{key}"] = torch.as_tensor(value)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    about = {
        "epoch": str(epoch),
        "step": str(step),
        "class_chunk": str(method.backbone.class_chunk or 0),
        "fingerprint": json.dumps(fingerprint, sort_keys=True),
    }
    with atomic_path(folder / FILE) as part:
        part.write_bytes(save(tensors, metadata=about))  # save_file would hide why the system refused


def is_state(file: Path) -> bool:
    """Whether ``file`` is the state of a training."""
    return "fingerprint" in metadata_of(file)


def kept_precision(folder: Path) -> str | None:
    """The towers' precision in the run whose state is in ``folder``; ``None`` if it cannot be said."""
    try:
        with safe_open(folder / FILE, framework="pt") as file:
            precision = json.loads(file.metadata()["fingerprint"]).get("precision")
    except (SafetensorError, OSError, TypeError, KeyError, ValueError, AttributeError):
        return None  # load_state says what is wrong with the file
    return precision if precision in ("fp32", "bf16") else None


def kept_class_chunk(folder: Path) -> int | None:
    """How many classes' texts ran at a time in the run whose state is in ``folder``, 0 for all of them together.

    ``None`` if it cannot be said.
    """
    try:
        with safe_open(folder / FILE, framework="pt") as file:
            return max(0, int(file.metadata()["class_chunk"]))
    except (SafetensorError, OSError, TypeError, KeyError, ValueError):
        return None  # an earlier version's state says nothing of it


def load_state(
    folder: Path, method: Method, optimizer: torch.optim.Optimizer, fingerprint: dict[str, Any]
) -> tuple[int, int] | None:
    """Restore a state written by :func:`save_state`; return its (epoch, step), or ``None`` if there is none.

    Raises :class:`UserError` for an unreadable file, or a state of a run with other settings (all differences named).
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            # copies: the optimiser would go on in the file itself, which could then not be replaced on Windows
            tensors: dict[str, Tensor] = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        position = int(metadata["epoch"]), int(metadata["step"])
        changed = changes(json.loads(metadata["fingerprint"]), fingerprint)
    except (SafetensorError, OSError, TypeError, KeyError, ValueError, AttributeError) as error:
        raise UserError(
            f"The training state '{path}' cannot be read ({error}): remove it and start anew without --resume."
        ) from error
    if changed:
        raise UserError(
            f"Cannot resume '{folder}': the run has other settings ({changed}). Start anew without --resume."
        )

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

    learned, extra, own = part("method."), part("training."), method.training_state()
    if any(
        {n: t.shape for n, t in saved.items()} != {n: t.shape for n, t in wanted.items()}
        for saved, wanted in ((learned, method.state_dict()), (extra, own))
    ):
        raise UserError(f"The training state '{path}' is of another version's method: start anew without --resume.")
    method.load_state_dict(learned)
    for name, tensor in extra.items():
        own[name].copy_(tensor)
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return position
