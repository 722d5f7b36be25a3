"""ImageNet and the data sets that share its classes: class folders, shared names, test-only data."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from anprompt import PromptClassifier
from anprompt.data import DataSource, draw_few_shot, open_data
from anprompt.data.names import distinct_names
from anprompt.data.source import Item, open_file
from anprompt.errors import UserError
from anprompt.settings import Note
from helpers_benchmarks import make_copy, write
from helpers_data import counts, refusal


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ImageNet and one of its variants; only for reading."""
    root = tmp_path_factory.mktemp("data-root")
    make_copy(root, "imagenet")
    make_copy(root, "imagenet_a")
    return root


def test_shared_names_stay_two_classes(data_root: Path) -> None:
    source = open_data("imagenet", data_root=data_root)
    assert len(set(source.classes)) == 998
    assert source.classes[836] == source.classes[837] == "sunglasses"
    assert [item.label for item in source.splits["test"] if item.name == "missile"] == [657, 744]
    new = source.subset("new")
    assert [item.label for item in new.splits["test"] if item.name == "sunglasses"] == [336, 337]
    drawn = draw_few_shot(source.splits["train"], 1, seed=1)
    assert [item.label for item in drawn] == list(range(1000))
    assert distinct_names(["a", "b", "a", "a"]) == ["a", "b", "a (2)", "a (3)"]


def test_imagenet_in_other_places(tmp_path: Path) -> None:
    folder = make_copy(tmp_path, "imagenet")
    expected = open_data("imagenet", data_root=tmp_path)
    (folder / "ILSVRC" / "Data").mkdir(parents=True)
    (folder / "images").rename(folder / "ILSVRC" / "Data" / "CLS-LOC")
    source = open_data("ImageNet", data_root=tmp_path)
    assert source.classes == expected.classes
    assert counts(source) == counts(expected)
    assert source.root is not None
    assert source.relative(source.splits["test"][0]) == "ILSVRC/Data/CLS-LOC/val/n00001000/test_0.JPEG"


def test_variants_find_the_class_list_beside_them(tmp_path: Path) -> None:
    make_copy(tmp_path, "imagenet_r")
    expected = open_data("imagenet_r", data_root=tmp_path)
    names = tmp_path / "imagenet-rendition" / "classnames.txt"
    (tmp_path / "imagenet").mkdir()
    names.rename(tmp_path / "imagenet" / "classnames.txt")
    assert open_data("imagenet_r", data_root=tmp_path) == expected
    (tmp_path / "imagenet" / "classnames.txt").unlink()
    assert f"ImageNet-R needs {names}, the names of ImageNet's 1000 classes" in refusal("imagenet_r", tmp_path)


def test_incomplete_class_folders(tmp_path: Path) -> None:
    adversarial = make_copy(tmp_path, "imagenet_a") / "imagenet-a"
    shutil.rmtree(adversarial / "n00001000")
    message = refusal("imagenet_a", tmp_path)
    assert "ImageNet-A has 200 of ImageNet's classes, but 199 have pictures in" in message
    write(adversarial / "n99999999" / "a.jpg")
    assert "1 folders in" in refusal("imagenet_a", tmp_path)
    assert "are none of ImageNet's 1000 classes: n99999999." in refusal("imagenet_a", tmp_path)
    folder = make_copy(tmp_path, "imagenet")
    (folder / "images" / "val" / "n00001000" / "test_0.JPEG").unlink()
    shutil.rmtree(folder / "images" / "train" / "n00001837")
    message = refusal("imagenet", tmp_path)
    assert f"1 of 1000 classes have no picture in {folder}/images/train (train): n00001837 (sunglasses)" in message
    assert f"1 of 1000 classes have no picture in {folder}/images/val (test): n00001000 (thing 000)" in message
    shutil.rmtree(folder / "images" / "val")
    write(folder / "images" / "val" / "ILSVRC2012_val_00000001.JPEG")
    assert f"1 pictures lie in {folder}/images/val itself: sort them into class folders" in refusal(
        "imagenet", tmp_path
    )
    shutil.rmtree(folder / "images")
    assert "there are no class folders such as n01440764 in" in refusal("imagenet", tmp_path)


@pytest.mark.parametrize(("change", "reason"), [
    (lambda lines: lines[:-1], "it names 999 classes, but ImageNet has 1000"),
    (lambda lines: [*lines, "tench"], "line 1001 is 'tench', expected an id and a name: 'n01440764 tench'"),
    (lambda lines: [*lines, "n00001000 again"], "line 1001: n00001000 is there twice"),
])  # fmt: skip
def test_bad_class_lists(tmp_path: Path, change: object, reason: str) -> None:
    file = make_copy(tmp_path, "imagenet_a") / "classnames.txt"
    file.write_text("\n".join(change(file.read_text().splitlines())))  # type: ignore[operator]
    assert reason in refusal("imagenet_a", tmp_path)


def test_the_order_of_the_class_list_does_not_count(tmp_path: Path) -> None:
    file = make_copy(tmp_path, "imagenet_a") / "classnames.txt"
    expected = open_data("imagenet_a", data_root=tmp_path)
    file.write_text("\n".join(reversed(file.read_text().splitlines())) + "\n\n")
    assert open_data("imagenet_a", data_root=tmp_path) == expected


def test_classes_that_share_a_name_are_counted_apart(tmp_path: Path, small_clip: Path) -> None:
    """Label 0 and 2 have one name: their logits are equal, so the first of them wins, and is right for its own only."""
    rows = [(f"{i}.jpg", i % 3, ("sunglasses", "sunglass", "sunglasses")[i % 3]) for i in range(6)]
    items = [Item(str(write(tmp_path / path)), label, name) for path, label, name in rows]
    source = DataSource(
        name="shared", classes=("sunglasses", "sunglass", "sunglasses"), splits={"train": items, "test": items},
        opener=open_file, benchmark="imagenet", root=tmp_path,
    )  # fmt: skip
    with pytest.warns(Note, match="3 of 3 classes have fewer than 16 photos") as notes:
        PromptClassifier(small_clip, "linear-probe", recipe={"epochs": 1}).fit(source)
    estimator = PromptClassifier(small_clip, "zero-shot").fit(source)
    assert any("sunglasses (2), sunglass (2), sunglasses (2) (2)" in str(each.message) for each in notes)
    result = estimator.evaluate(source)
    assert list(result["per_class"]) == ["sunglasses", "sunglass", "sunglasses (2)"]
    assert [row["images"] for row in result["per_class"].values()] == [2, 2, 2]
    assert result["per_class"]["sunglasses (2)"]["accuracy"] == 0
    other = dataclasses.replace(source, classes=("ox", "cow", "ox"), benchmark=None)
    with pytest.raises(UserError, match="'ox' is there twice"):  # somebody's own classes
        estimator.evaluate(other)
    published = dataclasses.replace(other, benchmark="imagenet")
    assert list(estimator.evaluate(published)["per_class"]) == ["ox", "cow", "ox (2)"]


def test_data_without_training_pictures_are_only_evaluated_on(data_root: Path, small_clip: Path) -> None:
    source = dataclasses.replace(open_data("imagenet_a", data_root=data_root), classes=("stingray", "hen"))
    first = [item._replace(name=source.classes[item.label]) for item in source.splits["test"][:2]]
    source = dataclasses.replace(source, splits={"test": first})
    with pytest.raises(UserError, match="ImageNet-A has no training pictures: learn from other data"):
        PromptClassifier(small_clip).fit(source)
    assert PromptClassifier(small_clip, "zero-shot").fit(source).evaluate(source)["images"] == 2
