"""``anprompt explain`` as a person meets it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anprompt import PromptClassifier
from anprompt.analysis import panels
from anprompt.commands.explain import _free_names
from anprompt.data import toyworld
from anprompt.outputs import is_figure
from helpers_cli import Cli, Refused, contents


@pytest.fixture
def photo(photo_folder: Path) -> Path:
    return photo_folder / "test" / "white_cat" / "test-1.jpg"


def test_the_command(cli: Cli, photo: Path, small_adapter: Path, tmp_path: Path) -> None:
    before = contents(small_adapter)
    line = ["explain", photo, "--adapter", small_adapter, "--class", "white cat", "--noise", "drop:0.5", "--orders", 2]
    code, printed, err = cli(*line, "--out", tmp_path / "out")
    assert code == 0, err
    assert "why white cat?" in printed
    assert "random orders)" in printed
    assert "Words (anprompt): a " in printed
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"test-1.png", "test-1.svg", "explain.json"}
    with Image.open(tmp_path / "out" / "test-1.png") as figure:
        width, height = figure.size
        assert width > 1500
        assert height > 500
        assert np.asarray(figure.convert("RGB")).std() > 10
    assert (tmp_path / "out" / "test-1.svg").read_text().count("<image") >= 5
    assert contents(small_adapter) == before

    found = cli(*line, "--out", tmp_path / "again", "--json")
    document = found.document
    assert document["kind"] == "explain"
    kept = json.loads((tmp_path / "out" / "explain.json").read_text())
    (row,), (old,) = document["images"], kept["images"]
    assert {**row, "figures": None} == {**old, "figures": None}, "same seed, other numbers"
    assert [(panel["method"], (panel["noise"] or {}).get("name")) for panel in row["panels"]] == [
        ("zero-shot", None), ("zero-shot", "drop"), ("anprompt", None), ("anprompt", "drop")
    ]  # fmt: skip
    for panel in row["panels"]:
        values = np.array(panel["map"])
        assert values.shape == (4, 4)
        assert values.min() >= 0
        assert values.max() in (0, 1)
        assert 0 < panel["probability"] < 1
        assert 0 <= panel["deletion"]["area"] <= 1
        assert len(panel["deletion"]["curve"]) == 17
        assert (panel["likeness"] is None) is (panel["noise"] is None)
        assert "white cat" in panel["sentences"][0]
        assert (panel["sentences"][0] == "a photo of a white cat.") is (panel["noise"] is None)
    assert row["words"]["method"] == "anprompt"


def test_zero_shot_alone_against_a_class_with_several_pictures(cli: Cli, tmp_path: Path) -> None:
    name = "plain red circle"
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        toyworld.render(name, index=len(folder)).save(tmp_path / folder / "same.png")
    found = cli("explain", tmp_path / "a", tmp_path / "b", "--class", name, "--against", "dotted purple cross",
                "--orders", 0, "--noise", "none", "--out", tmp_path / "out")  # fmt: skip
    assert found.code == 0, found.err
    assert f"why {name} and not dotted purple cross?" in found.out
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"same-1.png", "same-2.png"}
    document = json.loads((tmp_path / "out" / "explain.json").read_text())
    assert [len(row["panels"]) for row in document["images"]] == [1, 1]
    assert document["images"][0]["panels"][0]["deletion"] is None


@pytest.mark.parametrize("method", ["cam", "grad-cam", "rollout"])
def test_a_text_of_ones_own(cli: Cli, photo: Path, small_clip: Path, tmp_path: Path, method: str) -> None:
    text = "a white animal in the dark"
    found = cli("explain", photo, "--backbone", small_clip, "--text", text, "--method", method, "--orders", 1, "--out",
                tmp_path / "out", "--json")  # fmt: skip
    assert found.code == 0, found.err
    (row,) = found.document["images"]
    assert row["class"] == text
    assert found.document["config"]["classes"] == ["object", "things", "stuff", "texture"]
    clean, noisy = row["panels"]
    assert clean["sentences"] == [text]
    assert sorted(noisy["sentences"][0].split()) == sorted(text.split())
    assert noisy["sentences"][0] != text
    assert [word["word"] for word in row["words"]["sentences"][0]["words"]] == text.split()
    if method == "rollout":
        assert clean["map"] == noisy["map"], "roll-out looks at no class"


def test_baked_adapters(cli: Cli, photo: Path, small_adapter: Path, tmp_path: Path) -> None:
    PromptClassifier.load(small_adapter).bake().save(tmp_path / "baked")
    line = ("explain", photo, "--adapter", tmp_path / "baked", "--orders", 1, "--out", tmp_path / "out")
    code, _, err = cli(*line)
    assert code == 2
    assert "baked' is baked: it keeps class vectors instead of sentences" in err
    assert "--noise none leaves it out" in err
    assert not (tmp_path / "out").exists()
    whole = cli("explain", photo, "--adapter", small_adapter, *line[4:], "--noise", "none", "--json").document
    found = cli(*line, "--noise", "none", "--json")
    assert found.code == 0, found.err
    same, baked = (document["images"][0]["panels"][1] for document in (whole, found.document))
    np.testing.assert_allclose(baked["map"], same["map"], atol=0.02)
    assert found.document["images"][0]["words"]["sentences"] == []


def test_unreadable_pictures(cli: Cli, photo: Path, small_clip: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    line = ("explain", tmp_path / "bad.png", photo, "--backbone", small_clip, "--classes", "cat,dog", "--orders", 0,
            "--out", tmp_path / "out")  # fmt: skip
    code, _, err = cli(*line)
    assert code == 2
    assert "1 of 2 pictures cannot be used" in err
    found = cli(*line, "--bad-images", "skip", "--json")
    assert found.code == 0
    assert "left out: " in found.err
    assert len(found.document["images"]) == 1


def cat_or_dog(photo: Path, backbone: Path, folder: Path, orders: int) -> tuple[object, ...]:
    """A command line that explains ``photo`` into ``folder / "out"``."""
    given = ("--backbone", backbone, "--classes", "cat,dog", "--orders", orders, "--out", folder / "out")
    return ("explain", photo, *given)


def test_against_the_predicted_class(cli: Cli, photo: Path, small_clip: Path, tmp_path: Path) -> None:
    line = cat_or_dog(photo, small_clip, tmp_path, orders=0)
    (row,) = cli(*line, "--json").document["images"]
    code, _, err = cli(*line, "--against", row["class"])
    assert code == 2
    assert f"--against '{row['class']}' is what is predicted for" in err


@pytest.mark.parametrize(("line", "words"), [
    ("explain", "'anprompt explain' needs IMAGES"),
    ("explain absent.png", "No picture found at 'absent.png'"),
    ("explain p.png --class red", "--class 'red' is none of the 48 classes."),
    ("explain p.png --class plain-red-circle", "Did you mean 'plain red circle'?"),
    ("explain p.png --class cat --against cat", "--against must be another class than --class (both are 'cat')"),
    ("explain p.png --class cat --text dog", "Give --class or --text, not both"),
    ("explain p.png --against toast", "--against 'toast' is none of the 48 classes"),
    ("explain p.png --classes cat,dog --text dog", "--text 'dog' is one of the classes: name it with --class"),
    ("explain p.png --backbone some/model", "Nothing says between which classes 'some/model' chooses"),
    ("explain p.png --noise shufle", "'shufle' is none. Did you mean 'shuffle'?"),
    ("explain p.png --noise blur", "'blur' changes pictures"),
    ("explain p.png --noise drop,mask", "--noise takes one kind of noise, or none (got 'drop,mask')"),
    ("explain p.png --orders -1", "--orders must be at least 0 (got -1)"),
    ("explain p.png --method lime", "--method must be one of cam, grad-cam, rollout (got 'lime')"),
    ("explain p.png --clas cat", "has no option '--clas'. Did you mean '--class'?"),
    ("explain p.png --adapter absent", "There is no adapter folder 'absent'"),
    ("explain p.png --out p.png", "'p.png' is a file"),
])  # fmt: skip
@pytest.mark.usefixtures("no_model")
def test_wrong_usage_of_explain(line: str, words: str, refused: Refused) -> None:
    Image.new("RGB", (20, 20)).save(refused.folder / "p.png")
    assert words in refused(*line.split())


@pytest.mark.parametrize("mine", ["p.png", "p.svg", "explain.json"])
@pytest.mark.usefixtures("no_model")
def test_files_of_ones_own_are_not_replaced(mine: str, refused: Refused) -> None:
    Image.new("RGB", (20, 20)).save(refused.folder / "p.jpg")
    Path(mine).write_text("mine")
    photo = mine if mine.endswith(".png") else "p.jpg"
    words = f"'.' holds files of yours that would be replaced; give another --out: {mine}"
    assert words in refused("explain", photo, "--out", ".")


def test_figures_are_replaced_unless_they_are_what_is_explained(
    cli: Cli, photo: Path, small_clip: Path, tmp_path: Path
) -> None:
    line = cat_or_dog(photo, small_clip, tmp_path, orders=0)
    assert cli(*line).code == 0
    assert all(is_figure(tmp_path / "out" / f"test-1.{kind}") for kind in ("png", "svg"))
    assert cli(*line).code == 0, "the same again"
    code, _, err = cli("explain", tmp_path / "out" / "test-1.png", *line[2:])
    assert (code, "give another --out: test-1.png" in err) == (2, True)


def test_options_that_are_python_words(cli: Cli, photo: Path, small_clip: Path, tmp_path: Path) -> None:
    """``class`` in YAML and on the line; the line wins."""
    config = tmp_path / "run.yaml"
    config.write_text(f"class: dog\nbackbone: {small_clip}\nclasses: cat,dog\norders: 0\nnoise: none\n")
    line = ("explain", photo, "--config", config, "--out", tmp_path / "out", "--json")
    with warnings.catch_warnings(action="error"):
        assert cli(*line).document["images"][0]["class"] == "dog"
        assert cli(*line, "--class=cat").document["images"][0]["class"] == "cat"
    config.write_text("class: dog\nclass: cat\n")
    assert "'class' is already set on line 1" in cli(*line).err
    assert "--class NAME" in cli("explain", "--help").out


def test_an_empty_map_is_said_to_be_one(
    cli: Cli, photo: Path, small_clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panels, "maps_for", lambda *_, **__: torch.zeros(1, 4, 4))
    line = cat_or_dog(photo, small_clip, tmp_path, orders=1)
    found = cli(*line)
    assert found.code == 0, found.err
    assert {"the", "map", "is", "empty:", "no", "patch", "speaks", "for", "class"} <= set(found.out.split())  # wrapped
    assert "empty: no patch speaks for it" in (tmp_path / "out" / "test-1.svg").read_text()
    document = json.loads((tmp_path / "out" / "explain.json").read_text())
    assert [panel["peak"] for panel in document["images"][0]["panels"]] == [None, None]
    assert document["images"][0]["panels"][1]["likeness"] is None


def test_no_figure_takes_the_name_of_another() -> None:
    paths = ("x/a.jpg", "y/a.jpg", "z/a-1.jpg", "b.png")
    assert _free_names([Path(path) for path in paths]) == ["a-2", "a-3", "a-1", "b"]
