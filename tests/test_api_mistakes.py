"""What is easily given wrongly from Python: one sentence, no traceback, and notes that point at the user's line."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from sklearn.model_selection import GridSearchCV

from anprompt import PromptClassifier, fitting
from anprompt.clip import Backbone
from anprompt.errors import UserError
from anprompt.settings import Note
from helpers_clip import random_backbone
from helpers_fit import PHOTO_TEXTS, estimator


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone(image_size=32)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"recipe": "fast"}, "'recipe' must be a dictionary with names as keys \\(got 'fast'\\)"),
        ({"options": ["alpha"]}, "'options' must be a dictionary with names as keys"),
        ({"options": {1: 2}}, "'options' must be a dictionary with names as keys"),
        ({"texts": 5}, "'texts' must be a file, a folder, a dictionary or a bank \\(got a int\\)"),
        ({"texts": {"red fox": ["a fox."]}}, "The texts know none of the 4 classes \\(blue star, "),
        ({"texts": {"main": {"blue star": 3}}}, r"texts \(main\): class 'blue star' needs a list"),
        ({"device": torch.device("meta")}, "Unknown device 'meta'"),
    ],
)
def test_settings_of_a_wrong_kind(backbone: Backbone, photo_folder: Path, params: dict[str, Any], words: str) -> None:
    made = PromptClassifier(backbone, shots=1).set_params(**params)
    with pytest.raises(UserError, match=words):
        made.fit(photo_folder)


@pytest.mark.parametrize("whole", [True, False])
def test_a_dictionary_of_texts_is_what_a_file_would_be(backbone: Backbone, photo_folder: Path, whole: bool) -> None:
    parts = PHOTO_TEXTS.to_json()
    given = parts if whole else {name.replace(" ", "_"): tuple(own) for name, own in parts["main"].items()}
    made = estimator(backbone, method="zero-shot", texts=given, device=torch.device("cpu")).fit(photo_folder)
    bank = made.method_.bank
    assert {name: list(own) for name, own in bank.main.items()} == parts["main"]
    assert bool(bank.noise) is whole
    assert made.with_classes(["blue star", "red square"]).classes_.tolist() == ["blue star", "red square"]


def test_single_options_are_no_parameters(backbone: Backbone) -> None:
    made = estimator(backbone)
    with pytest.raises(UserError, match=r"'options__alpha': 'options' is set as a whole, as in options={'alpha': 0.1}"):
        GridSearchCV(made, {"options__alpha": [0.1]}, cv=2).fit(["a.jpg"] * 4, [0, 1] * 2)


def test_mistakes_are_worded_for_python(backbone: Backbone, tmp_path: Path) -> None:
    made = estimator(backbone, method="zero-shot", texts=None).fit([np.zeros((9, 9, 3))] * 2, ["a", "b"])
    with pytest.raises(UserError, match="need labels: give these as the second argument"):
        made.score(["a.jpg"])
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match='bad_images="skip" leaves them out'):
        made.predict([tmp_path / "broken.jpg"])


def test_a_folder_that_cannot_be_written_is_found_before_photos_are_read(
    backbone: Backbone, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "read_images", lambda *_, **__: pytest.fail("photos were read"))
    (tmp_path / "file").touch()
    for place, words in (("file", "is a file; give a folder"), ("file/below", "Cannot write to the output folder")):
        with pytest.raises(UserError, match=words):
            estimator(backbone).fit(photo_folder, folder=tmp_path / place)
    with pytest.raises(UserError, match="resume=True goes on with a training whose state is in a folder: name it"):
        estimator(backbone).fit(photo_folder, resume=True)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("log.jsonl", b'{"epoch": 1, "step": 1, "loss": 0.5}\n'),
        ("log.jsonl", b"[]\n"),
        ("log.jsonl", b"\xff"),
        ("state.safetensors", save({"weight": torch.zeros(2)}, metadata={"format": "pt"})),
        ("state.safetensors", save({"weight": torch.zeros(2)})),
        ("state.safetensors", (99).to_bytes(8, "little") + b"[1, 2]"),
    ],
)
def test_a_folder_of_somebody_elses_run_is_left_alone(
    name: str, content: bytes, backbone: Backbone, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "read_images", lambda *_, **__: pytest.fail("photos were read"))
    (tmp_path / name).write_bytes(content)
    words = f"'{tmp_path}' holds files of yours that would be replaced; give another folder: {name}"
    for resume in (False, True):
        with pytest.raises(UserError, match=f"^{re.escape(words)}$"):
            estimator(backbone).fit(photo_folder, folder=tmp_path, resume=resume)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {name: content}


def test_a_folder_of_an_earlier_run_is_used_again(backbone: Backbone, photo_folder: Path, tmp_path: Path) -> None:
    """Also where its state is damaged, and its log was begun only."""
    made = estimator(backbone, method="coop", shots=1, recipe={"epochs": 1})
    made.fit(photo_folder, folder=tmp_path)
    state = tmp_path / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-10])
    made.fit(photo_folder, folder=tmp_path)
    for begun in (b"", b'{"epoch": 1, "st'):
        (tmp_path / "log.jsonl").write_bytes(begun)
        made.fit(photo_folder, folder=tmp_path)


def test_notes_point_at_the_line_of_the_user(backbone: Backbone, photo_folder: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = estimator(backbone, texts=None, cache=tmp_path).fit(photo_folder)
        made.add_class("forest")
        made.with_classes(["river", "forest"])
    notes = [warning for warning in caught if warning.category is Note]
    assert len(notes) >= 4
    assert {warning.filename for warning in notes} == {__file__}
