"""Description banks, templates and noise strategies."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from anprompt.data import open_data
from anprompt.errors import UserError
from anprompt.text import (
    DEFAULT_TEMPLATE,
    ENSEMBLE,
    PARAPHRASES,
    ClassTexts,
    DescriptionBank,
    check_template,
    fill,
    read_bank,
)
from anprompt.text.noise import MASK, SYNONYMS, add_noise

NAMES = ["cat", "sea lake", "Dog"]


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


# ---- reading


def test_single_file_of_sentences_by_class(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.json", {"cat": ["A cat.", "One cat."], "dog": "A dog.", "cow": ["A cow."]})
    bank = read_bank(file, NAMES)
    assert bank.main == {"cat": ["A cat.", "One cat."], "Dog": ["A dog."]}  # one string is one sentence
    assert bank.noise == {}
    assert bank.source == "mine.json"


def test_single_file_with_both_kinds(tmp_path: Path) -> None:
    content = {"main": {"cat": ["A cat."]}, "noise": {"cat": ["Purr."], "sea_lake": ["Wet."]}}
    bank = read_bank(write(tmp_path / "both.json", content), NAMES)
    assert bank.main == {"cat": ["A cat."]}
    assert bank.noise == {"cat": ["Purr."], "sea lake": ["Wet."]}  # "_" in a file means a space
    assert read_bank(write(tmp_path / "again.json", bank.to_json()), NAMES).to_json() == bank.to_json()
    assert read_bank(write(tmp_path / "noise.json", {"cat": ["Purr."]}), NAMES).noise == {"cat": ["Purr."]}


def test_names_match_exactly_before_they_match_in_another_case(tmp_path: Path) -> None:
    file = write(tmp_path / "t.json", {"CAT": ["upper"], "cat": ["lower"], "DOG": ["dog"], " Sea_Lake ": ["wet"]})
    assert read_bank(file, NAMES).main == {"cat": ["lower"], "sea lake": ["wet"], "Dog": ["dog"]}
    assert read_bank(file, ["CAT", "Cat"]).main["CAT"] == ["upper"]


@pytest.mark.parametrize("noise_folder", ["noise", "hpt", "HPT"])
def test_folder_takes_the_file_that_covers_most_classes(tmp_path: Path, noise_folder: str) -> None:
    write(tmp_path / "main" / "a_small.json", {"cat": ["small"]})
    write(tmp_path / "main" / "b_large.json", {"cat": ["A cat."], "dog": ["A dog."]})
    write(tmp_path / "main" / "c_other.json", {"cow": ["A cow."], "pig": ["A pig."], "hen": ["A hen."]})
    write(tmp_path / "main" / "d_late.json", {"dog": ["late"]})
    write(tmp_path / noise_folder / "x.json", {"sea lake": ["Wet."]})
    write(tmp_path / noise_folder / "y.json", {name: [f"{name}!"] for name in NAMES})
    bank = read_bank(tmp_path, NAMES)
    assert bank.main == {"cat": ["A cat."], "Dog": ["A dog."]}
    assert bank.noise == {name: [f"{name}!"] for name in NAMES}
    assert bank.source == "b_large.json + y.json"


def test_no_class_is_known(tmp_path: Path) -> None:
    write(tmp_path / "cows.json", {"cow": ["A cow."]})
    with pytest.raises(UserError, match=r"knows any of the 3 classes \(cat, sea lake, Dog"):
        read_bank(tmp_path, NAMES)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="No file of texts"):
        read_bank(tmp_path / "empty", NAMES)
    with pytest.raises(UserError, match=r"No such file or folder with texts: '.*absent'"):
        read_bank(tmp_path / "absent", NAMES)


@pytest.mark.parametrize("content", ['{"cat": ["A cat.",', "", "[1, 2"])
def test_broken_json_is_named(tmp_path: Path, content: str) -> None:
    file = write(tmp_path / "broken.json", content)
    for place in (file, tmp_path):
        with pytest.raises(UserError, match=r"broken\.json: not readable as JSON"):
            read_bank(place, NAMES)


def test_not_utf_8_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.json").write_bytes('{"cat": ["süß"]}'.encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.json: not readable as JSON"):
        read_bank(tmp_path / "latin.json", NAMES)


def test_wrong_types_are_listed_together(tmp_path: Path) -> None:
    content = {"cat": ["A cat.", 3], "dog": {"a": 1}, "sea lake": [" "], "cow": None, "pig": ["fine"]}
    file = write(tmp_path / "types.json", content)
    with pytest.raises(UserError) as caught:
        read_bank(file, NAMES)
    message = str(caught.value)
    for name in ("cat", "dog", "sea lake", "cow"):
        assert f"types.json: class '{name}' needs a list of non-empty sentences" in message
    assert "pig" not in message
    with pytest.raises(UserError, match=r"expected an object \{class: \[sentences\]\}, found list"):
        read_bank(write(tmp_path / "list.json", ["A cat."]), NAMES)


def test_a_folder_is_usable_beside_a_broken_file(tmp_path: Path) -> None:
    write(tmp_path / "broken.json", "{")
    write(tmp_path / "good.json", {"cat": ["A cat."]})
    assert read_bank(tmp_path, NAMES).main == {"cat": ["A cat."]}


# ---- sentences of one class


def test_sentences_of_a_class() -> None:
    paraphrases = tuple(p.replace("{}", "cat") for p in PARAPHRASES)
    both = DescriptionBank({"cat": ["A.", "B."]}, {"cat": ["C."]})
    assert both.of("cat", DEFAULT_TEMPLATE) == ClassTexts("cat", ("A.", "B."), ("C.",), described=True)
    main_only = DescriptionBank({"cat": ["A.", "B."]})
    assert main_only.of("cat", DEFAULT_TEMPLATE) == ClassTexts("cat", ("A.", "B."), ("A.", "B."))
    single = DescriptionBank({"cat": ["A."]})
    assert single.of("cat", DEFAULT_TEMPLATE) == ClassTexts("cat", ("A.",), paraphrases)


def test_fallback_to_templates_is_said() -> None:
    paraphrases = tuple(p.replace("{}", "sea lake") for p in PARAPHRASES)
    bank = DescriptionBank({"cat": ["A."]}, {"sea lake": ["noise alone does not describe"]})
    expected = ClassTexts("sea lake", ("a sketch of a sea lake.",), paraphrases, described=False)
    assert bank.of("sea lake", "a sketch of a {}.") == expected
    assert len(set(PARAPHRASES)) == len(PARAPHRASES) == sum("{}" in p for p in PARAPHRASES)


def test_with_class_leaves_the_bank_alone() -> None:
    bank = DescriptionBank({"cat": ["A."]}, {"cat": ["N."]}, "file")
    more = bank.with_class("dog", ("B.", "C."))
    assert (more.main, more.noise, more.source) == ({"cat": ["A."], "dog": ["B.", "C."]}, {"cat": ["N."]}, "file")
    assert bank.main == {"cat": ["A."]}


# ---- templates


@pytest.mark.parametrize("template", ["a photo", "", "{} and {}", "a photo of a {name}"])
def test_template_must_have_one_place_for_the_name(template: str) -> None:
    with pytest.raises(UserError, match=r"must contain '\{\}' exactly once"):
        check_template(template)


def test_fill() -> None:
    assert check_template("{} texture.") == "{} texture."
    assert fill("{} of {0} 100 %", ["cat", "a{b}c"]) == ["cat of {0} 100 %", "a{b}c of {0} 100 %"]


# ---- noise

SENTENCE = "A small photo of the Sea Lake, near many trees, shows a bright sea lake and various large boats."


@pytest.mark.parametrize("strategy", ["drop", "mask", "shuffle", "synonym"])
def test_noise_keeps_the_class_name_and_changes_the_rest(strategy: str) -> None:
    for seed in range(20):
        noisy = add_noise(SENTENCE, "sea lake", strategy, random.Random(seed))
        assert noisy == add_noise(SENTENCE, "sea lake", strategy, random.Random(seed))
        assert noisy != SENTENCE
        assert noisy.lower().count("sea lake") == 2
        assert "Sea Lake," in noisy
    different = {add_noise(SENTENCE, "sea lake", strategy, random.Random(seed)) for seed in range(20)}
    assert (len(different) > 5) is (strategy != "synonym")  # synonyms do not draw


def test_what_each_strategy_does() -> None:
    words = SENTENCE.split()
    dropped = add_noise(SENTENCE, "sea lake", "drop", random.Random(0)).split()
    assert len(dropped) == len(words) - round(0.3 * (len(words) - 4))
    remaining = iter(words)
    assert all(word in remaining for word in dropped)  # what is left keeps its order

    masked = add_noise(SENTENCE, "sea lake", "mask", random.Random(0)).split()
    assert len(masked) == len(words)
    assert masked.count(MASK) == round(0.3 * (len(words) - 4))
    assert all(new in (MASK, old) for new, old in zip(masked, words, strict=True))

    shuffled = add_noise(SENTENCE, "sea lake", "shuffle", random.Random(0)).split()
    assert sorted(shuffled) == sorted(words)
    assert [shuffled.index("Sea"), shuffled.index("Lake,")] == [words.index("Sea"), words.index("Lake,")]

    swapped = add_noise("A small photo, near a cat.", "cat", "synonym", random.Random(0))
    assert swapped == f"A {SYNONYMS['small']} {SYNONYMS['photo']}, {SYNONYMS['near']} a cat."


def test_noise_on_short_and_foreign_sentences() -> None:
    rng = random.Random(0)
    assert add_noise("cat", "cat", "drop", rng) == "cat"
    assert add_noise("stray", "cat", "drop", rng) == "stray"  # never an empty sentence
    assert add_noise("nothing known here", "cat", "synonym", rng) == "nothing known here"
    assert len(add_noise("no class name here", "cat", "drop", rng).split()) == 3
    assert add_noise("a c++ (3.5) thing", "c++ (3.5)", "mask", rng).count("c++ (3.5)") == 1
    with pytest.raises(ValueError, match="unknown noise strategy 'typo'"):
        add_noise("a cat", "cat", "typo", rng)


def test_synonyms_are_real_replacements() -> None:
    assert all(word != other and word == word.lower() for word, other in SYNONYMS.items())


# ---- the published texts


@pytest.mark.real
@pytest.mark.parametrize(
    ("folder", "main", "noise", "counts"),
    [
        ("eurosat", "eurosat_prompt.json", "EuroSAT.json", (10, 5)),
        ("caltech-101", "caltech_prompt.json", "Caltech101.json", (50, 5)),
    ],
)
def test_published_texts_cover_all_classes(
    real: Path, folder: str, main: str, noise: str, counts: tuple[int, int]
) -> None:
    classes = open_data(str(real / "coop-data" / folder)).classes
    bank = read_bank(real / "texts", classes)
    assert bank.source == f"{main} + {noise}"
    assert list(bank.main) == list(bank.noise) == list(classes)
    published = [json.loads((real / "texts" / f).read_text("utf-8")) for f in (f"coprompt/{main}", f"hpt/{noise}")]
    for kind, raw in zip((bank.main, bank.noise), published, strict=True):
        lower = {key.lower().replace("_", " "): sentences for key, sentences in raw.items()}
        assert {name: list(own) for name, own in kind.items()} == {name: lower[name.lower()] for name in classes}
    texts = bank.of(classes[0], DEFAULT_TEMPLATE)
    assert (len(texts.main), len(texts.noise)) == counts


def test_the_ensemble_has_sixty_different_templates() -> None:
    assert len(set(ENSEMBLE)) == len(ENSEMBLE) == 60
    assert all(check_template(template) == template for template in ENSEMBLE)
