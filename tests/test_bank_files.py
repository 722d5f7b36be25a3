"""Banks in files of four formats, and what is done with whole banks."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anprompt.errors import UserError
from anprompt.text import (
    DescriptionBank,
    check_bank,
    deduplicate,
    load_bank,
    merge_banks,
    pair_banks,
    read_bank,
    split_bank,
    write_bank,
)

FORMATS = [".json", ".yaml", ".yml", ".csv", ".txt"]
BANK = DescriptionBank({"cat": ["A cat: small, soft.", 'One "cat".'], "sea lake": ["no"]}, {"cat": ["1", "Süß, #cat"]})

letters = st.text(st.characters(blacklist_categories=["C", "Z"], blacklist_characters="_"), min_size=1, max_size=8).map(
    lambda text: unicodedata.normalize("NFC", text)  # as names are kept
)
banks = st.dictionaries(letters, st.lists(letters, min_size=1, max_size=3), min_size=1, max_size=4)


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_is_written_is_read_back(tmp_path: Path, suffix: str) -> None:
    write_bank(tmp_path / f"bank{suffix}", BANK)
    again = load_bank(tmp_path / f"bank{suffix}")
    assert again.to_json() == BANK.to_json()
    assert again.source == f"bank{suffix}"
    assert read_bank(tmp_path / f"bank{suffix}", ["Cat", "dog"]).main == {"Cat": BANK.main["cat"]}


def test_accents_may_be_stored_in_either_way(tmp_path: Path) -> None:
    one, two = "caf\u00e9", "cafe\u0301"
    file = tmp_path / "bank.json"
    file.write_text(json.dumps({two: [f"a {two} at night"]}))
    bank = load_bank(file)
    assert bank.main == read_bank(file, [one]).main == {one: [f"a {two} at night"]}
    assert list(read_bank(file, [two.upper()]).main) == [two.upper()]
    report = check_bank(bank, [one])
    assert (report.unknown, report.unnamed) == ([], [])
    file.write_text(json.dumps({one: ["a"], two: ["b"]}))
    with pytest.raises(UserError, match="are one class"):
        load_bank(file)


@pytest.mark.parametrize("suffix", FORMATS)
@given(main=banks, noise=banks)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bank_survives_any_format(
    tmp_path: Path, suffix: str, main: dict[str, list[str]], noise: dict[str, list[str]]
) -> None:
    if suffix == ".txt":
        main, noise = ({f"x{name}": own for name, own in part.items()} for part in (main, noise))
    write_bank(tmp_path / f"bank{suffix}", DescriptionBank(main, noise))
    assert load_bank(tmp_path / f"bank{suffix}").to_json() == {"main": main, "noise": noise}


def test_what_people_write_by_hand(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("# remark\ncat: A cat.\n\nsea_lake: Wet: and deep.\n[noise]\ncat: Purr.\n")
    bank = load_bank(tmp_path / "a.txt")
    assert bank.to_json() == {"main": {"cat": ["A cat."], "sea lake": ["Wet: and deep."]}, "noise": {"cat": ["Purr."]}}
    (tmp_path / "b.csv").write_text('\ufeffClass, Sentence \ncat,A cat.\nsea_lake,Wet.\nsea lake,"Deep, too."\n')
    assert load_bank(tmp_path / "b.csv").main == {"cat": ["A cat."], "sea lake": ["Wet.", "Deep, too."]}
    (tmp_path / "c.yaml").write_text("cat: A cat.\nno: [yes, 1]\ncow: []\n")
    assert load_bank(tmp_path / "c.yaml").main == {"cat": ["A cat."], "no": ["yes", "1"]}
    (tmp_path / "noise.csv").write_text("class,sentence\ncat,A cat.\n")
    assert load_bank(tmp_path / "noise.csv").noise == {"cat": ["A cat."]}  # by the file's name, as for JSON


@pytest.mark.parametrize(("name", "content", "words"), [
    ("a.csv", "name,text\ncat,A cat.\n", "its first line must name the columns class and sentence; class and sentence"),
    ("a.csv", "class,sentence,kind\ncat,A.,nose\n", "a.csv, line 2: the kind 'nose' must be main or noise"),
    ("a.csv", "class,sentence\ncat,A.\ncat,\n", "a.csv, line 3: a class and a non-empty sentence are needed"),
    ("a.csv", 'class,sentence\ncat,"A\n', "not readable as CSV"),
    ("a.txt", "cat: A cat.\njust words\n", "a.txt, line 2: expected 'class: sentence', found 'just words'"),
    ("a.yaml", "cat: [A cat\n", "not readable as YAML"),
    ("a.yaml", "cat: A.\ncat: B.\n", "'cat' and 'cat' are one class"),
    ("a.yaml", "- cat\n", "expected an object {class: [sentences]}, found list"),
    ("a.yml", "cat:\n  dog: A.\n", "class 'cat' needs a list of non-empty sentences"),
    ("a.doc", "", "Unknown format of a file of texts, 'a.doc': '.doc'."),
    ("b.txt", None, "There is no file with texts"),
])  # fmt: skip
def test_faulty_files_are_refused_with_the_place(tmp_path: Path, name: str, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as caught:
        load_bank(tmp_path / name)
    assert words in str(caught.value)


@pytest.mark.parametrize("delimiter", [",", ";"])
@pytest.mark.parametrize("columns", [("class", "sentence"), ("sentence", "class"), ("kind", "class", "sentence")])
def test_sentences_with_commas_need_quotes(tmp_path: Path, columns: tuple[str, ...], delimiter: str) -> None:
    """Without them a sentence would be cut, and what is behind the cut might be taken for the class."""
    sentence = f"a horse-like animal{delimiter} with stripes"
    row = {"kind": "main", "class": "zebra", "sentence": sentence}
    cut, whole = (
        delimiter.join(quoted if key == "sentence" else row[key] for key in columns)
        for quoted in (sentence, f'"{sentence}"')
    )
    file, header = tmp_path / "a.csv", delimiter.join(columns)
    file.write_text("\n".join([header, cut, whole, cut]))
    with pytest.raises(UserError) as caught:
        load_bank(file)
    for line in (2, 4):
        words = f"a.csv, line {line}: more fields than the header's {len(columns)}: put quotes around sentences that"
        assert f"{words} hold '{delimiter}'" in str(caught.value)
    assert "line 3" not in str(caught.value)
    file.write_text("\n".join([header, whole + delimiter * 2]))  # as spreadsheets end a row
    assert load_bank(file).main == {"zebra": [sentence]}


def test_txt_refuses_what_it_would_lose(tmp_path: Path) -> None:
    bank = DescriptionBank({"#cat": ["A cat."], "dog: small": ["A\ndog."]})
    with pytest.raises(UserError) as caught:
        write_bank(tmp_path / "bank.txt", bank)
    assert "'#cat' would be misread" in str(caught.value)
    assert "'dog: small' would be misread" in str(caught.value)
    assert "a sentence of 'dog: small' has a line break" in str(caught.value)
    assert not list(tmp_path.iterdir())
    write_bank(tmp_path / "bank.csv", bank)
    assert load_bank(tmp_path / "bank.csv").main == bank.main


def test_a_folder_may_mix_formats(tmp_path: Path) -> None:
    (tmp_path / "noise").mkdir()
    (tmp_path / "few.json").write_text(json.dumps({"cat": ["few"]}))
    (tmp_path / "all.yaml").write_text("cat: A.\ndog: B.\n")
    (tmp_path / "noise" / "n.csv").write_text("class,sentence\ncat,N.\n")
    (tmp_path / "LICENSE.txt").write_text("cat: as is\ndog: as is\nox: as is\n")
    bank = read_bank(tmp_path, ["cat", "dog", "ox"])
    assert (bank.main, bank.noise) == ({"cat": ["A."], "dog": ["B."]}, {"cat": ["N."]})
    assert bank.source == "all.yaml + n.csv"


# ---- whole banks


def test_merging_and_pairing() -> None:
    one = DescriptionBank({"cat": ["A."]}, {"cat": ["N."]}, "one")
    two = DescriptionBank({"cat": ["B.", "A."], "dog": ["C."]}, {}, "two")
    merged = merge_banks(one, two)
    assert merged == DescriptionBank({"cat": ["A.", "B.", "A."], "dog": ["C."]}, {"cat": ["N."]}, "one + two")
    assert pair_banks(two, one) == DescriptionBank(two.main, {"cat": ["N.", "A."]}, "two + one")


def test_repeated_sentences_go() -> None:
    bank = DescriptionBank({"cat": ["A b.", "a  B.", "C."], "dog": ["A b."]}, {"cat": ["c.", "D."], "dog": ["a b."]})
    assert deduplicate(bank) == DescriptionBank({"cat": ["A b.", "C."], "dog": ["A b."]}, {"cat": ["D."]})


@given(st.integers(1, 12), st.integers(0, 99), st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_a_split_is_seeded_and_loses_nothing(count: int, seed: int, share: float) -> None:
    sentences = [f"s{i}" for i in range(count)]
    bank = DescriptionBank({"cat": sentences[: count // 2 + 1]}, {"cat": sentences[count // 2 + 1 :]})
    split = split_bank(bank, seed, share)
    main, noise = list(split.main["cat"]), list(split.noise.get("cat", []))
    assert sorted(main + noise) == sorted(sentences)
    assert main == sorted(main, key=sentences.index)
    assert len(noise) == min(round(share * count), count - 1)
    assert split == split_bank(bank, seed, share)
    more = split_bank(merge_banks(bank, DescriptionBank({"dog": ["x"]})), seed, share)
    assert more.main["cat"] == main  # other classes make no difference


def test_another_seed_gives_another_split() -> None:
    bank = DescriptionBank({"cat": [f"s{i}" for i in range(20)]})
    assert len({tuple(split_bank(bank, seed).main["cat"]) for seed in range(10)}) > 5


def test_what_is_wrong_with_a_bank() -> None:
    main = {"cat": ["A cat.", "a  cat.", "Something soft."], "sea lake": ["Sea-Lakes are wet."], "dgo": ["A dgo."]}
    noise = {"dog": ["A cat.", "A bobcat and a dog and much more."], "zebra": ["A zebra."]}
    report = check_bank(DescriptionBank(main, noise), ["cat", "dog", "sea lake"], lambda s: len(s.split()), 7)
    assert report.sentences == {"main": 5, "noise": 3}
    assert report.without == ["dog"]
    assert [(e["key"], e["nearest"]) for e in report.unknown] == [("dgo", "dog"), ("zebra", None)]
    assert [e["sentence"] for e in report.unnamed] == ["Something soft.", "A cat."]
    assert [e["sentence"] for e in report.repeated] == ["a  cat."]
    assert [(e["sentence"], e["classes"]) for e in report.shared] == [("A cat.", ["cat", "dog"])]
    assert [(e["class"], e["tokens"]) for e in report.too_long] == [("dog", 8)]
    assert json.loads(json.dumps(report.to_json()))["without"] == ["dog"]
    fine = check_bank(DescriptionBank({"cat": ["A cat."]}), ["cat"])
    assert not any(value for key, value in fine.to_json().items() if key not in ("classes", "sentences"))


@pytest.mark.real
def test_the_published_texts_are_checked(real: Path) -> None:
    bank = load_bank(real / "texts" / "coprompt" / "caltech_prompt.json")
    report = check_bank(bank, list(bank.main))
    assert report.sentences["main"] == 5000
    assert not report.without
    assert not report.unknown
    assert report.repeated  # "exact duplicates and a few failures inside"
