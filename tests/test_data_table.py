"""CSV, TSV and JSONL tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from anprompt.data import open_data
from helpers_data import refusal


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with pictures p/0.png … p/9.png."""
    (tmp_path / "p").mkdir()
    for i in range(10):
        Image.new("RGB", (4, 4)).save(tmp_path / "p" / f"{i}.png")
    return tmp_path


def write(file: Path, *lines: str) -> Path:
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def test_csv_with_splits(folder: Path) -> None:
    table = write(
        folder / "photos.csv", "\ufeffPath, Label ,split", "p/0.png,red_car,train", f"{folder}/p/1.png,bus,train", "",
        'p/2.png,"bus",TEST', "p/3.png,red car,test", "p/4.png,bus,valid",
    )  # fmt: skip
    source = open_data(table)
    assert (source.name, source.classes, source.own_split) == ("photos", ("bus", "red car"), False)
    train, val, test = (source.splits[split] for split in ("train", "val", "test"))
    assert train == [(f"{folder}/p/0.png", 1, "red car"), (f"{folder}/p/1.png", 0, "bus")]
    assert [source.relative(item) for item in train] == ["p/0.png", "p/1.png"]
    assert ([item.label for item in test], [item.label for item in val]) == ([0, 1], [0])
    assert source.open(train[0]).mode == "RGB"


def test_a_tilde_is_the_home_folder_in_front_of_a_slash_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder / "p"))
    (folder / "p" / "9.png").rename(folder / "~9.png")
    rows = ["p/0.png,a,train", "~/1.png,b,train", "~9.png,a,test", "p/2.png,b,test"]
    test = open_data(write(folder / "t.csv", "path,label,split", *rows)).splits["test"]
    assert test[0].path == f"{folder}/~9.png"


def test_empty_rows_and_paths_from_windows(folder: Path) -> None:
    rows = [f"p/{i}.png,{'ab'[i % 2]}" for i in range(4)]
    assert len(open_data(write(folder / "t.csv", "path,label", *rows, ",", " ,,,")).classes) == 2
    message = refusal(write(folder / "t.csv", "path,label", *rows, r"p\5.png,a"))
    assert message.endswith(r"p\5.png (line 6); folders are separated by / here")


@pytest.mark.parametrize("header", ["filepath,class", "image,class_name", "file,label"])
def test_column_names_and_own_split(folder: Path, header: str) -> None:
    rows = [f"p/{i}.png,{'ab'[i % 2]}" for i in range(10)]
    source = open_data(write(folder / "t.csv", header, *rows))
    assert source.own_split
    assert {split: len(items) for split, items in source.splits.items()} == {"train": 8, "test": 2}


def test_class_name_column_counts_before_label(folder: Path) -> None:
    table = write(folder / "t.tsv", "path\tlabel\tclass_name", "p/0.png\t0\tcat", "p/1.png\t1\tsea, dog")
    assert open_data(table).classes == ("cat", "sea, dog")


def test_jsonl(folder: Path) -> None:
    rows = [json.dumps({"image": f"p/{i}.png", "class": "ba"[i % 2]}) for i in range(4)]
    assert open_data(write(folder / "t.jsonl", *rows)).classes == ("a", "b")
    listed = open_data(write(folder / "t.jsonl", '{"classes": ["b", "a"]}', *rows))
    assert listed.classes == ("b", "a")
    assert {(item.label, item.name) for item in listed.splits["train"]} == {(0, "b"), (1, "a")}


def test_all_mistakes_are_reported_with_their_lines(folder: Path) -> None:
    table = write(
        folder / "t.csv", "path,label,split", "p/0.png,cat,train", "p/1.png,,train", ",dog,train", "p/0.png,dog,train",
        "p/2.png,dog,trian", "p/3.png,dog", *(f"gone{i}.png,dog,train" for i in range(7)), "p/4.png,cat,test",
    )  # fmt: skip
    message = refusal(table)
    assert "line 3: empty label" in message
    assert "line 4: empty path" in message
    assert "line 5: p/0.png is already listed on line 2" in message
    assert "line 6: unknown split 'trian'; allowed are train, training, val, valid, validation, test, tes" in message
    assert "Did you mean 'train'" in message
    assert "line 7: 2 fields, but the header has 3" in message
    assert "7 files do not exist" in message
    assert "gone0.png (line 8), gone1.png (line 9)" in message
    assert "gone4.png" in message
    assert "gone5.png" not in message
    assert "class 'dog' is in train but not in test" in message


def test_wrong_header_suggests_the_nearest_column(folder: Path) -> None:
    message = refusal(write(folder / "t.csv", "paht,label", "p/0.png,cat"))
    assert "no column for the picture (its first line names: paht, label)" in message
    assert "Did you mean 'path'?" in message
    assert "no column for the class" in refusal(write(folder / "t.csv", "path,kind", "p/0.png,cat"))
    assert "names: nothing" in refusal(write(folder / "t.csv", ""))
    assert "has no rows" in refusal(write(folder / "t.csv", "path,label"))
    assert "has no rows" in refusal(write(folder / "t.jsonl", ""))


def test_listed_classes_and_rows_must_agree(folder: Path) -> None:
    write(folder / "classes.txt", "cat", "sea_lion", "dog", "")
    table = write(folder / "t.csv", "path,label", "p/0.png,dog", "p/1.png,dogs", "p/2.png,sea lion")
    message = refusal(table)
    assert "class 'cat' is listed in" in message
    assert "classes.txt but has no row" in message
    assert "line 3: class 'dogs' is not listed in" in message
    assert "Did you mean 'dog'?" in message
    assert "sea" not in message
    write(table, "path,label", "p/0.png,dog", "p/1.png,cat", "p/2.png,sea lion")
    assert open_data(table).classes == ("cat", "sea lion", "dog")
    jsonl = write(folder / "t.jsonl", '{"classes": ["a", "b"]}', '{"path": "p/0.png", "label": "a"}')
    assert "class 'b' is listed in its first line but has no row" in refusal(jsonl)


def test_spreadsheets_that_write_semicolons(folder: Path) -> None:
    source = open_data(write(folder / "t.csv", "path;label;split", "p/0.png;car, red;train", "p/1.png;bus;train",
                             "p/2.png;bus;test", "p/3.png;car, red;test"))  # fmt: skip
    assert source.classes == ("bus", "car, red")
    assert {split: len(items) for split, items in source.splits.items()} == {"train": 2, "test": 2}


@pytest.mark.parametrize(("suffix", "mark"), [("csv", "\t"), ("csv", "|"), ("tsv", ","), ("tsv", "\t")])
def test_other_separators(folder: Path, suffix: str, mark: str) -> None:
    lines = ("path,label,split", "p/0.png,car,train", "p/1.png,bus,train", "p/2.png,bus,test", "p/3.png,car,test")
    source = open_data(write(folder / f"t.{suffix}", *(line.replace(",", mark) for line in lines)))
    assert source.classes == ("bus", "car")


def test_numbers_as_labels_mean_the_same_in_jsonl_and_csv(folder: Path) -> None:
    jsonl = write(folder / "t.jsonl", *(json.dumps({"path": f"p/{i}.png", "label": i % 2}) for i in range(4)))
    table = write(folder / "t.csv", "path,label", *(f"p/{i}.png,{i % 2}" for i in range(4)))
    assert open_data(jsonl).classes == open_data(table).classes == ("0", "1")


def test_class_names_that_clash(folder: Path) -> None:
    message = refusal(write(folder / "t.csv", "path,label", "p/0.png,Sea Lion", "p/1.png,dog", "p/2.png,sea_lion"))
    assert "'Sea Lion' (line 2) and 'sea lion' (line 4) are one class name" in message
    write(folder / "classes.txt", "dog", "", "dog")
    message = refusal(write(folder / "t.csv", "path,label", "p/0.png,dog"))
    assert "'' (entry 2 of" in message
    assert "'dog' (entry 1 of" in message


def test_one_class_only_and_no_training_rows(folder: Path) -> None:
    assert "there is only one class ('cat')" in refusal(write(folder / "t.csv", "path,label", "p/0.png,cat"))
    message = refusal(write(folder / "t.csv", "path,label,split", "p/0.png,cat,val", "p/1.png,dog,val"))
    assert "no row belongs to the split train or test" in message


def test_jsonl_mistakes(folder: Path) -> None:
    table = write(
        folder / "t.jsonl", '{"path": "p/0.png", "label": "a", "split": "train"}', "{oops", "[1]",
        '{"path": "p/1.png", "label": 3.5, "split": "train"}', '{"path": "p/2.png", "split": "train"}',
        '{"path": "p/3.png", "label": "b"}',
    )  # fmt: skip
    message = refusal(table)
    assert "line 2: not JSON" in message
    assert "line 3: not a JSON object" in message
    assert 'line 4: "label" must be text, not 3.5' in message
    assert 'line 5: "label" is missing' in message
    assert "line 6: unknown split ''" in message
    assert '"classes" must be a list' in refusal(write(table, '{"classes": "a,b"}'))


def test_text_that_is_not_utf8(folder: Path) -> None:
    (folder / "t.csv").write_bytes("path,label\np/0.png,café\n".encode("latin-1"))
    assert "is not UTF-8 text" in refusal(folder / "t.csv")
