"""What is saved and loaded: an adapter is a folder of three small files (docs/adapter-format.md).

``adapter.safetensors``: learned tensors and frozen prompts only. ``adapter.json``: everything else. ``README.md``: a
model card for people. No pickle, no code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from anprompt import __version__, methods
from anprompt.clip import Backbone, load_backbone
from anprompt.errors import UserError
from anprompt.files import atomic_path, check_writable, sha256_file, sha256_json, write_json, write_text
from anprompt.methods import Method
from anprompt.text import DescriptionBank

FORMAT = "anprompt-adapter"
FORMAT_VERSION = 1
TENSORS, DOCUMENT, CARD = "adapter.safetensors", "adapter.json", "README.md"
STORED = {"fp16": torch.float16, "fp32": torch.float32}


@torch.no_grad()
def round_to_storage(method: Method, dtype: str) -> None:
    """Round learned tensors to the format they are stored in: a loaded adapter then predicts bit-identically."""
    for parameter in method.parameters():
        parameter.copy_(parameter.to(STORED[dtype]).to(parameter.dtype))


def save_adapter(folder: Path, method: Method, about: Mapping[str, Any], *, dtype: str = "fp16") -> None:
    """Write an adapter.

    about: ``preset``, ``recipe``, ``data``, ``metrics`` and whatever else belongs into the document.
    dtype: of the learned tensors, ``"fp16"`` or ``"fp32"``; frozen prompts are stored as they are.

    Raises :class:`UserError` when the folder cannot be written; each old file is then complete.
    """
    check_writable(folder)
    learned = {name for name, _ in method.named_parameters()}
    tensors = {
        name: (tensor.to(STORED[dtype]) if name in learned else tensor).detach().cpu().contiguous()
        for name, tensor in method.state_dict().items()
    }
    baked = bool(getattr(method, "baked_names", ()))
    texts = DescriptionBank() if baked else method.used_texts([*method.class_names, *method.bank.main])
    document: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "package_version": __version__,
        "method": method.name,
        "options": vars(method.options),
        "seed": method.seed,
        "template": method.template,
        "class_blocks": [{"names": list(b.names), "trained": b.trained} for b in method.blocks],
        "texts": {**texts.to_json(), "source": texts.source},
        "baked": baked,
        "decision": method.decision(),
        "backbone": {"source": method.backbone.source, "weights_sha256": method.backbone.weights_hash},
        **about,
    }
    with atomic_path(folder / TENSORS) as part:
        save_file(tensors, part, metadata={"format": FORMAT})
    document["files"] = {TENSORS: {"sha256": sha256_file(folder / TENSORS), "bytes": (folder / TENSORS).stat().st_size}}
    document["sha256"] = sha256_json(document)
    write_json(folder / DOCUMENT, document)
    write_text(folder / CARD, model_card(document))


def read_document(folder: str | Path) -> dict[str, Any]:
    """Read and check ``adapter.json``. Unknown keys are kept and ignored; a newer format version is refused."""
    folder = Path(folder)
    path = folder / DOCUMENT
    if not path.is_file():
        raise UserError(
            f"'{folder}' is not an adapter: it has no {DOCUMENT}. 'anprompt fit … --out FOLDER' writes one."
        )
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"'{path}' is damaged: {error}.") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise UserError(f'\'{path}\' is not an adapter document: its "format" is not "{FORMAT}".')
    version = document.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise UserError(
            f"'{folder}' has adapter format version {version}; this anprompt ({__version__}) reads up to "
            f"{FORMAT_VERSION}: upgrade it."
        )
    body = {key: value for key, value in document.items() if key != "sha256"}
    if document.get("sha256") != sha256_json(body):
        raise UserError(f"'{path}' was changed after it was written (its checksum differs): fetch or fit it again.")
    return document


def _tensors(folder: Path, document: dict[str, Any]) -> dict[str, Tensor]:
    """Read the tensor file that the document names, after checking name, place and checksum."""
    for name in document["files"]:
        inside = Path(name).name == name and (folder / name).resolve().parent == folder.resolve()
        if not inside:
            raise UserError(f"'{folder / DOCUMENT}' names a file outside its folder ('{name}'): refused.")
    path = folder / TENSORS
    if TENSORS not in document["files"] or not path.is_file():
        raise UserError(f"'{folder}' is incomplete: {TENSORS} is missing.")
    expected = document["files"][TENSORS]
    if path.stat().st_size != expected["bytes"]:
        raise UserError(f"'{path}' is truncated: {path.stat().st_size} bytes instead of {expected['bytes']}.")
    if sha256_file(path) != expected["sha256"]:
        raise UserError(f"'{path}' was changed after it was written (its checksum differs): fetch or fit it again.")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"'{path}' cannot be read: {error}.") from error


def load_adapter(folder: str | Path, backbone: str | Backbone | None = None) -> tuple[Method, dict[str, Any]]:
    """Load an adapter and put its classes in front of it; return (method, document).

    backbone: a loaded one, or where to find it now; by default the place that the adapter was trained with.
    Raises :class:`UserError` for damaged, newer or foreign files, and for another backbone than it was trained on.
    """
    folder = Path(folder)
    document = read_document(folder)
    tensors = _tensors(folder, document)
    if not isinstance(backbone, Backbone):
        backbone = load_backbone(backbone or document["backbone"]["source"])
    expected = document["backbone"]["weights_sha256"]
    if backbone.weights_hash != expected:
        raise UserError(
            f"The adapter '{folder}' belongs to the backbone '{document['backbone']['source']}' (weights "
            f"{expected[:12]}…), but '{backbone.source}' has other weights ({backbone.weights_hash[:12]}…)."
        )
    method = methods.build(
        document["method"], backbone, template=document["template"], seed=document["seed"], **document["options"]
    )
    names = [name for block in document["class_blocks"] for name in block["names"]]
    if document["baked"]:
        method.bake(tensors, names)
    else:
        wanted, found = set(method.state_dict()), set(tensors)
        if wanted != found:
            raise UserError(
                f"'{folder / TENSORS}' does not fit its document: tensors {sorted(wanted ^ found)[:5]} differ."
            )
        method.load_state_dict(tensors)
    texts = document["texts"]
    method.bank = DescriptionBank(texts["main"], texts["noise"], texts.get("source", "adapter"))
    method.blocks = [method.make_block(block["names"], trained=block["trained"]) for block in document["class_blocks"]]
    method.requires_grad_(False)
    return method, document


def model_card(document: Mapping[str, Any]) -> str:
    """A short README for people who receive the adapter."""
    data, metrics = document.get("data", {}), document.get("metrics", {})
    names = [name for block in document["class_blocks"] for name in block["names"]]
    lines = [
        f"# {document['method']} adapter for {len(names)} classes",
        "",
        f"A small add-on to the frozen model `{document['backbone']['source']}`"
        f" (weights SHA-256 `{document['backbone']['weights_sha256'][:16]}…`), made with anprompt {__version__}.",
        "It needs that model; on any other it is refused.",
        "",
        "    anprompt predict THIS_FOLDER photo.jpg",
        "",
        f"- Classes: {', '.join(names[:20])}{' …' if len(names) > 20 else ''}",
        f"- Trained on: {data.get('name', 'unknown data')}, {data.get('shots', '?')} photos per class, "
        f"seed {document['seed']}",
        f"- Decision: {document['decision']}",
    ]
    lines += [f"- {key.replace('_', ' ')}: {value:.1f} %" for key, value in metrics.items() if isinstance(value, float)]
    return "\n".join([*lines, ""])
