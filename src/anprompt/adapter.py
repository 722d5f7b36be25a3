"""What is saved and loaded: an adapter is a folder of three small files (docs/adapter-format.md).

``adapter.safetensors``: learned tensors and frozen prompts only. ``adapter.json``: everything else. ``README.md``: a
model card for people. No pickle, no code.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from anprompt import __version__, methods
from anprompt.clip import Backbone, load_backbone
from anprompt.clip.precision import PRECISIONS, Choice, precision_of_adapter
from anprompt.errors import UserError, did_you_mean, unknown_name
from anprompt.files import atomic_paths, check_writable, expanded, remove_parts, sha256_file, sha256_json, to_json
from anprompt.methods import Method
from anprompt.outputs import check_foreign, is_marked, metadata_of
from anprompt.settings import note
from anprompt.text import DescriptionBank

FORMAT = "anprompt-adapter"
FORMAT_VERSION = 1
TENSORS, DOCUMENT, CARD = "adapter.safetensors", "adapter.json", "README.md"
CARD_SAYS = "It needs that model; on any other it is refused."
# What a document of version 1 must have; it may have more, which is kept and ignored.
REQUIRED = ("method", "options", "seed", "template", "class_blocks", "texts", "baked", "decision", "backbone", "files")
ROUNDED = 0.02  # how far the exponential of a number near 4.6 moves when a checkpoint is stored in bf16 or fp16
STORED = {"fp16": torch.float16, "fp32": torch.float32}


@torch.no_grad()
def round_to_storage(method: Method, dtype: str) -> None:
    """Round learned tensors to the format they are stored in: a loaded adapter then predicts bit-identically.

    Raises :class:`UserError` for numbers beyond the format's range.
    """
    for name, parameter in method.named_parameters():
        rounded = parameter.to(STORED[dtype]).to(parameter.dtype)
        if not bool(rounded.isfinite().all()):
            raise UserError(f"Learned numbers in '{name}' are too large for {dtype}: lower the learning rate.")
        parameter.copy_(rounded)


def _is_document(file: Path) -> bool:
    return is_marked(file, f'"format": "{FORMAT}"')  # a damaged one is ours too


def _is_tensors(file: Path) -> bool:
    return metadata_of(file).get("format") == FORMAT


def _is_card(file: Path) -> bool:
    return is_marked(file, CARD_SAYS)


# The files of an adapter, and whether a file of that name is one's.
WRITTEN = {TENSORS: _is_tensors, DOCUMENT: _is_document, CARD: _is_card}


def save_adapter(folder: Path, method: Method, about: Mapping[str, Any]) -> None:
    """Write an adapter.

    about: ``preset``, ``recipe``, ``data``, ``metrics`` and whatever else belongs into the document. ``storage`` is the
        number format of the learned tensors, ``"fp16"`` (default) or ``"fp32"``; frozen prompts are stored as they are.

    Raises :class:`UserError` when the folder cannot be written or holds files of these names that are no adapter's;
    what was there is then as it was.
    """
    check_writable(folder)
    check_foreign(folder, WRITTEN, option="folder")
    paths = folder / TENSORS, folder / DOCUMENT, folder / CARD
    remove_parts(*paths)
    baked = method.baked is not None
    if baked:
        method.bake()  # takes in classes that were added since
    dtype = STORED[about.get("storage", "fp16")]
    learned = {name for name, _ in method.named_parameters()}
    tensors = {
        name: (tensor.to(dtype) if name in learned else tensor).detach().cpu().contiguous()
        for name, tensor in method.state_dict().items()
    }
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
        "trained_classes": list(method.learned),
        "texts": {**texts.to_json(), "source": texts.source},
        "baked": baked,
        "decision": method.decision(),
        "backbone": {
            "source": method.backbone.source,
            "weights_sha256": method.backbone.weights_hash,
            "computes": method.backbone.computes,
        },
        **about,
    }
    content = save(tensors, metadata={"format": FORMAT})
    document["files"] = {TENSORS: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}}
    document["sha256"] = sha256_json(document)
    with atomic_paths(*paths) as (tensors_part, document_part, card_part):
        tensors_part.write_bytes(content)
        document_part.write_text(to_json(document), encoding="utf-8")
        card_part.write_text(model_card(document), encoding="utf-8")


def read_document(folder: str | Path) -> dict[str, Any]:
    """Read and check ``adapter.json``. Unknown keys are kept and ignored; a newer format version is refused."""
    folder = Path(folder)
    path = folder / DOCUMENT
    if not folder.exists():
        near = [other.name for other in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise UserError(f"There is no adapter folder '{folder}'.{did_you_mean(folder.name, near)}")
    if folder.is_file():
        raise UserError(f"'{folder}' is a file: give the folder of the adapter, such as '{folder.parent}'.")
    if not path.is_file():
        raise UserError(
            f"'{folder}' is not an adapter: it has no {DOCUMENT}. 'anprompt fit … --out FOLDER' writes one."
        )
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"'{path}' is damaged: {error}.") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise UserError(f'\'{path}\' is not an adapter document: its "format" is not "{FORMAT}".')
    version = document.get("format_version")
    if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
        raise UserError(
            f"'{folder}' has adapter format version {version!r}; this anprompt ({__version__}) reads versions 1 to "
            f"{FORMAT_VERSION}: upgrade it."
        )
    body = {key: value for key, value in document.items() if key != "sha256"}
    if document.get("sha256") != sha256_json(body):
        raise UserError(f"'{path}' was changed after it was written (its checksum differs): fetch or fit it again.")
    if missing := [key for key in REQUIRED if key not in document]:
        raise UserError(f"'{path}' is incomplete: it lacks {', '.join(missing)}.")
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


def own_backbone(folder: str | Path, document: Mapping[str, Any]) -> Backbone:
    """The backbone that an adapter was trained with, from the place that it names: a relative one from here.

    Raises :class:`UserError` that says how to name another place, if it is not there.
    """
    source = document["backbone"]["source"]
    try:
        return load_backbone(source)
    except UserError as error:
        if expanded(source).exists():
            raise
        why = f" ({error})" if "Hugging Face" in str(error) else ""
        raise UserError(
            f"The adapter '{folder}' was trained on the backbone '{source}', which is not here{why}: say with "
            "--backbone, in Python with backbone=, where it is now."
        ) from error


def _check_backbone(folder: Path, expected: Mapping[str, Any], backbone: Backbone) -> None:
    """Raise :class:`UserError` unless ``backbone`` gives what the ``expected`` one of an adapter gave."""
    weights = expected["weights_sha256"]
    if backbone.weights_hash != weights:
        raise UserError(
            f"The adapter '{folder}' belongs to the backbone '{expected['source']}' (weights {weights[:12]}…), but "
            f"'{backbone.source}' has other weights ({backbone.weights_hash[:12]}…)."
        )
    then, now = expected.get("computes", {}), backbone.computes  # older adapters have none
    differing = [key for key in then.keys() & now.keys() if then[key] != now[key]]
    if "logit_scale" in differing and math.isclose(then["logit_scale"], now["logit_scale"], rel_tol=ROUNDED):
        differing.remove("logit_scale")
    if differing:
        shown = "; ".join(f"{key}: {then[key]} → {now[key]}" for key in sorted(differing))
        raise UserError(
            f"The adapter '{folder}' belongs to the backbone '{expected['source']}', but '{backbone.source}' computes "
            f"otherwise with the same weights ({shown})."
        )


def load_adapter(
    folder: str | Path,
    backbone: str | Path | Backbone | None = None,
    device: torch.device | None = None,
    precision: str = "auto",
) -> tuple[Method, dict[str, Any]]:
    """Load an adapter with its classes; return (method, document).

    backbone: a loaded one, or where to find it now; by default the place that the adapter was trained with.
    device: where to run; by default where the backbone is.
    precision: of the frozen towers, "fp32", "bf16", or "auto": as in training, so that answers stay the same, unless
        that was bf16 by itself and this machine has no fast bf16.
    Raises :class:`UserError` for damaged, newer or foreign files, and for another backbone than it was trained on.
    """
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    folder = Path(folder)
    document = read_document(folder)
    tensors = _tensors(folder, document)
    if not isinstance(backbone, Backbone):
        backbone = load_backbone(backbone) if backbone else own_backbone(folder, document)
    _check_backbone(folder, document["backbone"], backbone)
    device = device or backbone.device
    chosen = Choice(precision)
    if precision == "auto":
        asked = (document.get("recipe") or {}).get("precision", "auto")
        chosen = precision_of_adapter(document.get("precision", "fp32"), asked, backbone, device)
    if chosen.why:
        note(chosen.why)
    backbone = backbone.in_precision(chosen.precision, device)
    method = methods.build(
        document["method"], backbone, template=document["template"], seed=document["seed"], **document["options"]
    )
    names = [name for block in document["class_blocks"] for name in block["names"]]
    if document["baked"]:
        # copies: what is baked keeps the tensors as they are, and Windows replaces no file that they are mapped from
        method.bake({name: tensor.clone() for name, tensor in tensors.items()}, names)
    else:
        method.make_room({each: len(tensors[key]) for key, each in method.rows_per.items() if key in tensors})
        wanted, found = ({(n, tuple(t.shape)) for n, t in ts.items()} for ts in (method.state_dict(), tensors))
        if wanted != found:
            names = sorted({name for name, _ in wanted ^ found})[:5]
            raise UserError(f"'{folder / TENSORS}' does not fit its document: {', '.join(names)} differ.")
        method.load_state_dict(tensors)
    texts = document["texts"]
    method.bank = DescriptionBank(texts["main"], texts["noise"], texts.get("source", "adapter"))
    blocks = document["class_blocks"]
    in_front = [name for block in blocks if block["trained"] for name in block["names"]]
    method.learned = tuple(document.get("trained_classes", in_front))  # older adapters do not have it
    method.blocks = [method.make_block(block["names"], trained=block["trained"]) for block in blocks]
    method.requires_grad_(False)
    return method, document


def _trained_on(data: Mapping[str, Any], seed: int) -> list[str]:
    """A line of the model card; none for a method that learnt from no photos."""
    if data.get("images") == 0:
        return []
    photos = f"{data['images']} photos, " if "images" in data else ""
    most = f"at most {data['shots']} of each class, " if "shots" in data else ""
    return [f"- Trained on: {data.get('name', 'unknown data')}, {photos}{most}seed {seed}"]


def model_card(document: Mapping[str, Any]) -> str:
    """A short README for people who receive the adapter."""
    data, metrics = document.get("data", {}), document.get("metrics", {})
    names = [name for block in document["class_blocks"] for name in block["names"]]
    lines = [
        f"# {document['method']} adapter for {len(names)} classes",
        "",
        f"A small add-on to the frozen model `{document['backbone']['source']}`"
        f" (weights SHA-256 `{document['backbone']['weights_sha256'][:16]}…`), made with anprompt {__version__}.",
        CARD_SAYS,
        "",
        "    anprompt predict THIS_FOLDER photo.jpg",
        "",
        f"- Classes: {', '.join(names[:20])}{' …' if len(names) > 20 else ''}",
        *_trained_on(data, document["seed"]),
        f"- Decision: {document['decision']}",
    ]
    lines += [f"- {key.replace('_', ' ')}: {value:.1f} %" for key, value in metrics.items() if isinstance(value, float)]
    return "\n".join([*lines, ""])
