"""Adapters that do not fit, and folders that cannot be written: one sentence each, and the old files survive."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from anprompt import __version__, files
from anprompt.adapter import (
    DOCUMENT,
    FORMAT_VERSION,
    TENSORS,
    load_adapter,
    save_adapter,
)
from anprompt.clip import Backbone, ImageTransform
from anprompt.errors import UserError
from anprompt.files import sha256_file, sha256_json, to_json
from helpers_clip import random_backbone
from helpers_fit import ABOUT, pictures, trained


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("README.md", b"# My thesis"),
        ("adapter.json", b'{"format": "peft", "rank": 4}'),
        ("adapter.safetensors", save({"lora": torch.zeros(2)}, metadata={"format": "pt"})),
        ("adapter.safetensors", save({"lora": torch.zeros(2)})),
        ("adapter.safetensors", b"weights of another program"),
    ],
)
def test_somebody_elses_files_are_not_replaced(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    words = f"'{tmp_path}' holds files of yours that would be replaced; give another folder: {name}"
    with pytest.raises(UserError, match=f"^{re.escape(words)}$"):
        save_adapter(tmp_path, trained(), ABOUT)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {name: content}


def test_an_adapter_is_replaced_also_a_damaged_or_empty_one(folder: Path) -> None:
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in (TENSORS, DOCUMENT):
        (folder / name).write_bytes((folder / name).read_bytes()[:-10])
    (folder / "README.md").write_bytes(b"")
    again = trained()
    for _ in range(2):
        save_adapter(folder, again, ABOUT)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return random_backbone().transform.normalise(torch.stack([image[:, :32, :32] for image in pictures(5).images]))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    save_adapter(folder, trained(), ABOUT)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """An adapter of the paper's preset."""
    return Path(shutil.copytree(saved, tmp_path / "adapter"))


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object], *, sign: bool = True) -> None:
    """Change the document; with ``sign`` its checksum is made to fit again, as another program would."""
    document = json.loads((folder / DOCUMENT).read_text())
    change(document)
    if sign:
        document.pop("sha256", None)
        document["sha256"] = sha256_json(document)
    (folder / DOCUMENT).write_text(to_json(document), encoding="utf-8")


def refused(folder: Path, backbone: Backbone | None = None) -> str:
    with pytest.raises(UserError) as error:
        load_adapter(folder, backbone or random_backbone())
    assert "\n" not in str(error.value)
    return str(error.value)


# ---- refusals --------------------------------------------------------------------------------------------------------


def test_another_backbone_is_refused(folder: Path) -> None:
    message = refused(folder, random_backbone(seed=1))
    assert "belongs to the backbone 'random'" in message
    assert random_backbone().weights_hash[:12] in message
    assert "has other weights" in message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"activation": "gelu"}, "(text.activation: quick_gelu → gelu; vision.activation: quick_gelu → gelu)"),
        ({"vision_heads": 4}, "(vision.heads: 2 → 4)"),
        ({"logit_scale": 50.0}, "(logit_scale: 100.0 → 50.0)"),
        ({"eps": 1e-6}, "(text.eps: 1e-05 → 1e-06)"),
        ({"transform": ImageTransform(36, 32)}, "(image.size: 32 → 36)"),
        ({"transform": ImageTransform(32, 32, squash=True)}, "(image.squash: False → True)"),
        ({"transform": ImageTransform(32, 32, std=(0.5, 0.5, 0.5))}, "→ [0.5, 0.5, 0.5])"),
    ],
)
def test_a_backbone_with_the_same_weights_that_computes_otherwise_is_refused(
    change: dict[str, Any], words: str, folder: Path
) -> None:
    own = {key: value for key, value in change.items() if key not in ("eps", "transform")}
    other = random_backbone(**own)
    other.transform = change.get("transform", other.transform)
    if "eps" in change:
        other.config = replace(other.config, text=replace(other.config.text, eps=change["eps"]))
    assert other.weights_hash == random_backbone().weights_hash
    message = refused(folder, other)
    assert "belongs to the backbone 'random'" in message
    assert "computes otherwise with the same weights" in message
    assert words in message
    rewrite(folder, lambda document: document["backbone"].pop("computes"))
    load_adapter(folder, other)  # as adapters written before


def test_what_does_not_change_answers_is_not_refused(folder: Path) -> None:
    """The scale as bf16 rounds its logarithm, and what only a later version says."""
    rewrite(folder, lambda document: document["backbone"]["computes"].update(later=1))
    load_adapter(folder, random_backbone(logit_scale=math.exp(torch.tensor(math.log(100.0)).bfloat16().item())))


def test_files_that_are_missing_or_no_adapter(folder: Path, tmp_path: Path) -> None:
    assert "There is no adapter folder" in refused(tmp_path / "adaptr")
    assert "Did you mean 'adapter'?" in refused(tmp_path / "adaptr")
    (tmp_path / "empty").mkdir()
    assert "it has no adapter.json" in refused(tmp_path / "empty")
    (tmp_path / "empty" / DOCUMENT).write_text('{"model": "other"}')
    assert '"format" is not "anprompt-adapter"' in refused(tmp_path / "empty")
    (tmp_path / "empty" / DOCUMENT).write_text("[]")
    assert '"format" is not "anprompt-adapter"' in refused(tmp_path / "empty")
    (folder / TENSORS).unlink()
    assert f"{TENSORS} is missing" in refused(folder)


@pytest.mark.parametrize("content", [b'{"format": "anprompt-adapter", ', b"\xff\xfe\x00", b""])
def test_a_damaged_document(folder: Path, content: bytes) -> None:
    (folder / DOCUMENT).write_bytes(content)
    assert "is damaged" in refused(folder)


def test_a_truncated_tensor_file(folder: Path) -> None:
    path = folder / TENSORS
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-10])
    assert f"is truncated: {size - 10} bytes instead of {size}" in refused(folder)


def test_a_single_changed_bit_in_the_tensors(folder: Path) -> None:
    path = folder / TENSORS
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    assert f"'{path}' was changed after it was written" in refused(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["class_blocks"][0]["names"].reverse(),
        lambda d: d["options"].update(theta=0.5),
        lambda d: d["files"][TENSORS].update(sha256="0" * 64),
        lambda d: d.pop("sha256"),
        lambda d: d.update(note="added by hand"),
    ],
)
def test_a_document_changed_by_hand(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    rewrite(folder, change, sign=False)
    assert f"{DOCUMENT}' was changed after it was written" in refused(folder)


@pytest.mark.parametrize("version", [FORMAT_VERSION + 1, 0, "1", None])
def test_other_format_versions(folder: Path, version: Any) -> None:
    rewrite(folder, lambda d: d.update(format_version=version))
    message = refused(folder)
    assert f"has adapter format version {version!r}; this anprompt ({__version__}) reads versions 1 to 1" in message


def test_entries_of_later_versions_are_ignored(folder: Path, pixels: Tensor) -> None:
    before = load_adapter(folder, random_backbone())[0].logits(pixels)
    (folder / "thumbnail.png").write_bytes(b"x")

    def extend(document: dict[str, Any]) -> None:
        document["licence"] = {"name": "MIT", "years": [2030]}
        document["class_blocks"][0]["colour"] = "blue"
        document["files"]["thumbnail.png"] = {"sha256": sha256_file(folder / "thumbnail.png"), "bytes": 1}
        document["backbone"]["mirror"] = "somewhere"

    rewrite(folder, extend)
    loaded, document = load_adapter(folder, random_backbone())
    assert document["licence"] == {"name": "MIT", "years": [2030]}
    assert torch.equal(loaded.logits(pixels), before)


def test_a_document_without_an_entry_that_it_must_have(folder: Path) -> None:
    rewrite(folder, lambda d: (d.pop("template"), d.pop("files")))
    assert "is incomplete: it lacks template, files" in refused(folder)


@pytest.mark.parametrize("name", ["../secret", "..", "a/b", "sub/../../secret", "/etc/passwd"])
def test_file_names_that_lead_outside_are_refused(folder: Path, name: str) -> None:
    (folder.parent / "secret").write_bytes(b"x")
    rewrite(folder, lambda d: d["files"].update({name: {"sha256": "0", "bytes": 1}}))
    assert f"names a file outside its folder ('{name}'): refused" in refused(folder)


def test_a_link_that_leads_outside_is_refused(folder: Path) -> None:
    shutil.move(folder / TENSORS, folder.parent / "elsewhere")
    (folder / TENSORS).symlink_to(folder.parent / "elsewhere")
    assert f"outside its folder ('{TENSORS}'): refused" in refused(folder)


@pytest.mark.parametrize("kind", ["missing", "extra", "shape"])
def test_tensors_that_do_not_fit_the_document(folder: Path, kind: str) -> None:
    tensors = load_file(folder / TENSORS)
    if kind == "missing":
        del tensors["prompts"]
    elif kind == "extra":
        tensors["prompts2"] = torch.zeros(1)
    else:
        tensors["prompts"] = torch.zeros(4, 16)
    save_file(tensors, folder / TENSORS)
    entry = {"sha256": sha256_file(folder / TENSORS), "bytes": (folder / TENSORS).stat().st_size}
    rewrite(folder, lambda d: d["files"].update({TENSORS: entry}))
    assert f"does not fit its document: {'prompts2' if kind == 'extra' else 'prompts'} differ" in refused(folder)


def test_an_unknown_method_or_option_of_a_later_version(folder: Path) -> None:
    rewrite(folder, lambda d: d["options"].update(thetta=1))
    assert "Did you mean 'theta'?" in refused(folder)
    rewrite(folder, lambda d: (d["options"].clear(), d.update(method="anprompt2")))
    assert "Unknown method 'anprompt2'. Did you mean 'anprompt'?" in refused(folder)


# ---- when the system refuses -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def largest_file(limit: int) -> Iterator[None]:
    """Let the system refuse to write more than ``limit`` bytes into a file, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_the_system_cuts_off_leaves_the_old_adapter(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    other = trained(seed=2)
    for limit in (1000, len(before[DOCUMENT]) // 2):
        with largest_file(limit), pytest.raises(UserError, match=r"Cannot write .*: File too large"):
            save_adapter(folder, other, ABOUT)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    load_adapter(folder, random_backbone())


@pytest.mark.parametrize("call", [1, 2, 3])
def test_a_full_disk_at_any_of_the_files_leaves_the_old_adapter(
    folder: Path, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    calls = 0

    def full(_: int) -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device; what was there before is untouched"):
        save_adapter(folder, trained(seed=2), ABOUT)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"Cannot write to the output folder .*: Not a directory"):
        save_adapter(tmp_path / "file" / "adapter", trained("zero-shot"), ABOUT)
