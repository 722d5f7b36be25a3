"""Description banks of published data sets: CoPrompt's and HPT's files as they are, shared and written-alike names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from anprompt.errors import UserError
from anprompt.text import DescriptionBank, read_bank
from helpers_benchmarks import class_names

CLASSES = ["crane bird", "sunglasses", "sea lake", "sunglasses"]  # two classes of one name, as in ImageNet


def save(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


def test_sentences_are_kept_as_they_are(tmp_path: Path) -> None:
    """Unequal counts, repeated sentences, other classes, keys with ``_``, other spaces and case."""
    content = {
        "sunglasses": ["dark.", "dark.", "round."],
        "Crane_Bird": ["tall."],
        "sea  lake": ["a"] * 50,
        "ox": ["o"],
    }
    bank = read_bank(save(tmp_path / "main.json", content), CLASSES)
    assert bank.main == {"sunglasses": ["dark.", "dark.", "round."], "crane bird": ["tall."], "sea lake": ["a"] * 50}


def test_998_names_serve_1000_classes(tmp_path: Path) -> None:
    names = [name.replace("_", " ") for _, name in class_names()]
    assert (len(names), len(set(names))) == (1000, 998)
    save(
        tmp_path / "hpt" / "ImageNet.json", {name: [f"{name} {i}." for i in range(5)] for name in dict.fromkeys(names)}
    )
    save(tmp_path / "hpt" / "other.json", {name: ["no."] for name in names[:500]})
    bank = read_bank(tmp_path, names)
    assert bank.source == "ImageNet.json"
    assert len(bank.noise) == 998
    assert all(bank.noise[name] == [f"{name} {i}." for i in range(5)] for name in names)


def test_keys_that_are_one_class_are_refused(tmp_path: Path) -> None:
    file = save(tmp_path / "texts.json", '{"sea_lake": ["wet."], "ox": ["o"], "sea lake": ["deep."], "ox": ["p"]}')
    with pytest.raises(UserError) as caught:
        read_bank(file, CLASSES)
    message = str(caught.value)
    assert f"{file}: 'sea_lake' and 'sea lake' are one class: join their sentences in one list" in message
    assert f"{file}: 'ox' and 'ox' are one class" in message  # JSON itself would keep the last one
    with pytest.raises(UserError, match="'main' or 'noise' is there twice"):
        read_bank(save(tmp_path / "twice.json", '{"main": {"ox": ["o"]}, "main": {"ox": ["p"]}}'), ["ox"])


def test_faults_of_a_file_that_is_taken_are_told_in_folders_too(tmp_path: Path) -> None:
    save(tmp_path / "main.json", {"sea_lake": ["wet."], "sea lake": ["deep."], "sunglasses": [""]})
    save(tmp_path / "other.json", {"ox": [""]})
    with pytest.raises(UserError) as caught:
        read_bank(tmp_path, CLASSES)
    assert "'sea_lake' and 'sea lake' are one class" in str(caught.value)
    assert "main.json: class 'sunglasses' needs a list of non-empty sentences" in str(caught.value)
    assert "other.json" not in str(caught.value)  # not taken: its faults are nobody's concern


def test_a_class_without_sentences_counts_as_not_described(tmp_path: Path) -> None:
    bank = read_bank(save(tmp_path / "texts.json", {"sunglasses": [], "crane bird": ["tall."]}), CLASSES)
    assert bank == DescriptionBank({"crane bird": ["tall."]}, {}, "texts.json")
    with pytest.raises(UserError, match="class 'ox' needs a list of non-empty sentences"):
        read_bank(save(tmp_path / "object.json", {"ox": {}}), ["ox"])


@pytest.mark.parametrize(("names", "shown"), [
    (["a", "b", "c"], "3 classes (a, b, c)."),
    (["a", "b", "c", "d"], "4 classes (a, b, c, …)."),
])  # fmt: skip
def test_dots_only_stand_for_what_is_left_out(tmp_path: Path, names: list[str], shown: str) -> None:
    with pytest.raises(UserError) as caught:
        read_bank(save(tmp_path / "texts.json", {"ox": ["o"]}), names)
    assert str(caught.value).endswith(f"knows any of the {shown}")


# ---- the published files


@pytest.mark.real
@pytest.mark.parametrize("folder", ["coprompt", "hpt"])
def test_every_published_file_is_read_as_it_is(real: Path, folder: str) -> None:
    files = sorted((real / "texts" / folder).glob("*.json"))
    assert len(files) >= 10
    for file in files:
        content = json.loads(file.read_text("utf-8"))
        names = [key.replace("_", " ") for key in content]
        bank = read_bank(file, names)
        sentences = bank.noise if folder == "hpt" else bank.main
        assert dict(sentences) == dict(zip(names, content.values(), strict=True)), file.name


@pytest.mark.real
def test_the_published_imagenet_texts_serve_all_classes(real: Path) -> None:
    content = json.loads((real / "texts" / "hpt" / "ImageNet.json").read_text("utf-8"))
    assert len(content) == 998
    classes = [*content, "missile", "sunglasses"]  # a thousand classes
    bank = read_bank(real / "texts", classes)
    assert bank.source.split(" + ")[-1] == "ImageNet.json"
    assert all(len(bank.noise[name]) == 5 for name in classes)
