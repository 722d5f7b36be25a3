"""Published data sets without their split file: a split of our own, and results that say so."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from anprompt.data import Item, open_data
from anprompt.data.assemble import split_in_three
from anprompt.data.benchmarks import BENCHMARKS, find_benchmark
from helpers_benchmarks import EUROSAT_KEYS, entries, make_copy, write
from helpers_cli import Cli
from helpers_data import refusal

SPLIT = [benchmark.name for benchmark in BENCHMARKS if benchmark.split_file.startswith("split_zhou")]


def own_layout(root: Path, name: str) -> Path:
    """A copy without its split, with the label files that its makers give away."""
    from scipy.io import savemat

    folder = make_copy(root, name)
    benchmark = find_benchmark(name)
    rows = list(entries(benchmark))
    if name == "oxford_flowers":
        names = {label + 1: class_name for _, _, label, class_name in rows}
        write(folder / "cat_to_name.json", json.dumps({str(k): v for k, v in names.items()}))
        labels = {int(path[6:11]): label + 1 for _, path, label, _ in rows}
        savemat(folder / "imagelabels.mat", {"labels": np.array([[labels[i + 1] for i in range(len(labels))]])})
    elif name == "stanford_cars":
        (folder / "devkit").mkdir()
        words = {label: class_name.split() for _, _, label, class_name in rows}
        meta = np.array([[" ".join([*words[i][1:], words[i][0]]) for i in range(196)]], dtype=object)
        savemat(folder / "devkit" / "cars_meta.mat", {"class_names": meta})
        for top, file in (
            ("cars_train", "devkit/cars_train_annos.mat"),
            ("cars_test", "cars_test_annos_withlabels.mat"),
        ):
            of_top = [(path, label) for _, path, label, _ in rows if path.startswith(top)]
            kind = [("bbox_x1", "O"), ("class", "O"), ("fname", "O")]
            table = np.array([(1, label + 1, path.partition("/")[2]) for path, label in of_top], dtype=kind)
            savemat(folder / file, {"annotations": table[None]})
    return folder


@pytest.mark.parametrize("name", SPLIT)
def test_own_split(tmp_path: Path, name: str) -> None:
    folder, benchmark = own_layout(tmp_path, name), find_benchmark(name)
    published = open_data(name, data_root=tmp_path)
    (folder / benchmark.split_file).unlink()
    source = open_data(name, data_root=tmp_path)
    assert (source.name, source.benchmark, source.own_split) == (f"{benchmark.title} (own split)", name, True)
    assert source.classes == published.classes  # worded and ordered alike: the same base and new classes
    assert source.template == published.template
    train, val = (round(share * 6) for share in benchmark.own_shares)
    for split, count in {"train": train, "val": val, "test": 6 - train - val}.items():
        assert Counter(item.label for item in source.splits[split]) == dict.fromkeys(range(benchmark.classes), count)
    truth = {item.path: item.label for items in published.splits.values() for item in items}
    assert {item.path: item.label for items in source.splits.values() for item in items} == truth
    assert "is split by anprompt" in source.differs[0]
    assert open_data(name, data_root=tmp_path) == source


def test_own_split_never_changes_between_versions() -> None:
    """A fixed list. A class does not depend on the others, and a small one has training photos first."""
    items = [Item(f"{name} {i}", 0, name) for name, n in (("forest", 10), ("river", 4), ("sea", 1)) for i in range(n)]
    parts = {split: [item.path for item in own] for split, own in split_in_three(items, (0.5, 0.2)).items()}
    assert parts == {
        "train": ["forest 0", "forest 3", "forest 7", "forest 8", "forest 9", "river 1", "river 2", "sea 0"],
        "val": ["forest 2", "forest 6", "river 0"],
        "test": ["forest 1", "forest 4", "forest 5", "river 3"],
    }
    assert split_in_three(items[:10], (0.5, 0.2))["val"] == [item for item in items if item.path in parts["val"][:2]]


def test_own_split_does_not_depend_on_the_layout(tmp_path: Path) -> None:
    folder = make_copy(tmp_path / "one", "eurosat")
    (folder / "split_zhou_EuroSAT.json").unlink()
    one = open_data("eurosat", data_root=tmp_path / "one")
    for path in (folder / "2750").rglob("*.jpg"):
        part = "train" if int(path.stem[-1]) % 2 else "test"  # as somebody else has sorted them
        write(tmp_path / "two" / "EuroSAT" / part / path.parent.name / path.name)
    two = open_data("eurosat", data_root=tmp_path / "two")
    for split, items in one.splits.items():
        assert [(Path(i.path).name, i.label) for i in items] == [
            (Path(i.path).name, i.label) for i in two.splits[split]
        ]


def test_own_split_leaves_out_what_is_no_class(tmp_path: Path) -> None:
    folder = make_copy(tmp_path, "caltech101")
    (folder / "split_zhou_Caltech101.json").unlink()
    for extra in ("BACKGROUND_Google", "Faces_easy"):
        write(folder / "101_ObjectCategories" / extra / "image_0001.jpg")
    for key, other in (("Faces", "class_000"), ("airplanes", "class_001")):
        (folder / "101_ObjectCategories" / other).rename(folder / "101_ObjectCategories" / key)
    source = open_data("caltech101", data_root=tmp_path)
    assert source.classes[:2] == ("face", "airplane")  # in the order of the folders, capitals first
    assert len(source.classes) == 100


def test_own_split_needs_all_classes(tmp_path: Path) -> None:
    folder = make_copy(tmp_path, "eurosat")
    (folder / "split_zhou_EuroSAT.json").unlink()
    shutil.rmtree(folder / "2750" / EUROSAT_KEYS[0])
    message = refusal("eurosat", tmp_path)
    assert "EuroSAT has 10 classes, but the pictures below" in message
    assert (
        "tell 9 (Forest, Herbaceous Vegetation Land, Highway or Road, Industrial Buildings, Pasture Land, …)" in message
    )
    assert "Not there: AnnualCrop (Annual Crop Land)." in message
    shutil.rmtree(folder / "2750")
    assert "There are no pictures of EuroSAT below" in refusal("eurosat", tmp_path)


def test_flowers_without_names_or_with_damaged_labels(tmp_path: Path) -> None:
    folder = own_layout(tmp_path, "oxford_flowers")
    (folder / "split_zhou_OxfordFlowers.json").unlink()
    write(folder / "imagelabels.mat", b"no such thing")
    assert "Cannot read the labels in" in refusal("flowers", tmp_path)
    (folder / "imagelabels.mat").unlink()
    assert "Flowers102 has 102 classes, but the pictures below" in refusal("flowers", tmp_path)
    for label in range(102):  # numbered class folders serve as well
        write(folder / "train" / str(label + 1) / f"image_{label:05}.jpg")
    assert len(open_data("flowers", data_root=tmp_path).classes) == 102
    (folder / "cat_to_name.json").unlink()
    assert "needs" in refusal("flowers", tmp_path)
    assert "for the names of its 102 numbered classes" in refusal("flowers", tmp_path)


@pytest.mark.real
@pytest.mark.parametrize("name", ["caltech101", "dtd", "eurosat", "oxford_pets", "ucf101"])
def test_own_split_words_and_orders_classes_as_published(
    real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As if every picture of the published list were there."""
    benchmark = find_benchmark(name)
    lists = json.loads((real / "splits" / benchmark.split_file).read_text())
    rows = [row for split in lists.values() for row in split]
    files = sorted(f"{benchmark.picture_folder}/{path}" for path, _, _ in rows)
    monkeypatch.setattr("anprompt.data.own_split.list_kept", lambda root: files)
    (tmp_path / benchmark.folder).mkdir()
    source = open_data(name, data_root=tmp_path)
    names = {label: class_name.replace("_", " ") for _, label, class_name in rows}
    assert source.classes == tuple(names[label] for label in range(benchmark.classes))
    own = {Path(item.path).relative_to(tmp_path / benchmark.folder).as_posix(): item.label
           for items in source.splits.values() for item in items}  # fmt: skip
    assert own == {f"{benchmark.picture_folder}/{path}": label for path, label, _ in rows}
    for split, published in benchmark.counts.items():  # about as many as in the published split
        assert abs(len(source.splits[split]) - published) <= 0.02 * sum(benchmark.counts.values())


def test_an_own_split_is_in_records_and_notes(tmp_path: Path, small_clip: Path, cli: Cli) -> None:
    make_copy(tmp_path, "eurosat")
    (tmp_path / "eurosat" / "split_zhou_EuroSAT.json").unlink()
    line = ("eurosat", "--data-root", tmp_path, "--backbone", small_clip)
    sentence = "EuroSAT is split by anprompt (50% train, 20% val, the rest test, per class)"
    fitted = cli("fit", *line, "--method", "zero-shot", "--out", tmp_path / "out", "--json")
    assert fitted.code == 0
    assert f"note: {sentence}" in fitted.err
    data = fitted.document["data"]
    assert (data["name"], data["benchmark"], data["own_split"]) == ("EuroSAT (own split)", "eurosat", True)
    assert sentence in data["differs"][0]
    for command in (("zeroshot", *line), ("evaluate", tmp_path / "out", *line[:3])):
        outcome = cli(*command, "--json")
        assert outcome.code == 0
        assert f"note: {sentence}" in outcome.err
        assert (outcome.document["data"]["own_split"], outcome.document["data"]["name"]) == (
            True,
            "EuroSAT (own split)",
        )
        assert sentence in outcome.document["data"]["differs"][0]
    assert "EuroSAT (own split), split test" in cli("zeroshot", *line).out
