"""``anprompt describe`` without a server: templates, WordNet, files; and wrong usage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anprompt.text import load_bank
from anprompt.text.wordnet import WordNet
from helpers_cli import Cli, Refused


def test_describe_offline(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anprompt.text.wordnet._places", list)
    out = tmp_path / "bank.txt"
    code, printed, err = cli("describe", "toyworld", "--out", out, "--split-seed", 3, "--backbone", "miniature")
    assert code == 0, err
    assert "Nothing is wrong with them." in printed
    assert "from templates, split with seed 3" in printed
    bank = load_bank(out)
    assert len(bank.main) == len(bank.noise) == 48
    assert all(len(bank.main[name]) + len(bank.noise[name]) == 9 for name in bank.main)
    (tmp_path / "noise.json").write_text(json.dumps({name: [f"noisy {name}"] for name in bank.main}))
    document = cli("describe", "toyworld", "--texts", out, "--noise-texts", tmp_path / "noise.json", "--out",
                   tmp_path / "two.csv", "--json").document  # fmt: skip
    assert document["check"]["sentences"]["noise"] == 48
    two = load_bank(tmp_path / "two.csv")
    assert two.main == bank.main
    assert two.noise["plain red circle"] == ["noisy plain red circle"]


def test_glosses_of_wordnet_become_sentences(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "wn"
    folder.mkdir()
    (folder / "data.noun").write_text('00000000 05 n 01 otter 0 000 | freshwater carnivore; typically webbed; "x"\n')
    (folder / "index.noun").write_text("otter n 1 0 1 1 00000000\n")
    assert WordNet(folder).glosses("otter") == ["freshwater carnivore; typically webbed"]
    document = cli("describe", "otter,red fox", "--wordnet", folder, "--out", tmp_path / "b.json", "--json").document
    assert document["source"] == "templates and WordNet's glosses of 1 names"
    main = load_bank(tmp_path / "b.json").main
    assert main["otter"] == ["a photo of a otter.", "a photo of a otter, freshwater carnivore."]
    assert main["red fox"] == ["a photo of a red fox."]


def test_a_long_list_of_classes(cli: Cli, tmp_path: Path) -> None:
    names = [f"class number {i}" for i in range(30)]  # longer than the name of any file
    assert cli("describe", ",".join(names), "--out", tmp_path / "b.json").code == 0
    assert list(load_bank(tmp_path / "b.json").main) == names


def test_a_table_that_lists_classes_only(refused: Refused) -> None:
    Path("classes.csv").write_text("cat\ndog\n")
    assert "A list of class names is a text file (.txt) with one name per line." in refused("describe", "classes.csv")


@pytest.mark.parametrize(("line", "words"), [
    ("describe a,b --server http://h/v1", "--server needs --model"),
    ("describe a,b --model m --rate 3", "--model goes with --server"),
    ("describe a,b --server h --model m", "'h' is no server address"),
    ("describe a,b --server http://h/v1 --model m --rate 0", "--rate must be a number of requests per minute above 0"),
    ("describe a,b --count 0 --server http://h/v1 --model m", "--count must be 1 to 100 (got 0)"),
    ("describe a,b --count 3", "--count goes with --server"),
    ("describe a,b --out bank.docx", "Unknown format of a file of texts, 'bank.docx': '.docx'"),
    ("describe a,,a", "The class names in 'a,,a' cannot be used:"),
    ("describe absent", "There is no 'absent'"),
    ("describe a,b --texts absent.json", "There is no file with texts 'absent.json'"),
    ("describe a,b --noise-texts n.json --split-seed 1", "not both"),
    ("describe a,b --wordnet absent", "'absent' holds no WordNet"),
])  # fmt: skip
def test_wrong_usage_of_describe(line: str, words: str, refused: Refused) -> None:
    assert words in refused(*line.split())


def test_nothing_is_overwritten(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text("{}")
    code, _, err = cli("describe", "a,b", "--out", tmp_path / "b.json")
    assert code == 2
    assert "exists already" in err
    assert (tmp_path / "b.json").read_text() == "{}"
