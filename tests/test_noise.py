"""Noise strategies: nothing at strength 0, the class name stays, the same for a seed, more for more strength."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anprompt.errors import UserError
from anprompt.text import PARAPHRASES, DescriptionBank
from anprompt.text.noise import (
    MASK,
    STRATEGIES,
    SYNONYMS,
    Material,
    add_noise,
    find_strategy,
    find_synonyms,
    noisy,
    rewriter,
)
from anprompt.text.noise.material import NOUNS
from helpers_methods import NAMES, anprompt, bank
from literal_noise import first_noise

TEXT = [name for name, strategy in STRATEGIES.items() if strategy.level == "text"]
BY_WORD = ["drop", "mask", "shuffle", "synonym", "typo", "case", "plural"]
PHRASES = [*SYNONYMS, *NOUNS, "a", "some", "with", "and", "leaves,", "stripes.", "tall,", "xyz", "the"]

sentences = st.lists(st.sampled_from(PHRASES), max_size=24, unique=True)
names = st.sampled_from(["sea lake", "cat", "striped red star", "c++ (3.5)"])
strengths = st.floats(0, 1)
seeds = st.integers(0, 10**6)


def worded(words: list[str], name: str, at: int) -> str:
    return " ".join([*words[:at], name, *words[at:]])


@given(sentences, names, st.sampled_from(TEXT), seeds, st.integers(0, 24))
@settings(max_examples=150, deadline=None)
def test_nothing_changes_at_strength_0(words: list[str], name: str, strategy: str, seed: int, at: int) -> None:
    sentence = worded(words, name, at)
    assert noisy(sentence, name, strategy, strength=0, seed=seed) == sentence
    assert noisy(f"  {sentence} ", name, "identity", strength=1, seed=seed) == f"  {sentence} "


@given(sentences, names, st.sampled_from(TEXT), strengths, seeds, st.integers(0, 24))
@settings(max_examples=200, deadline=None)
def test_the_class_name_stays_and_a_seed_decides(
    words: list[str], name: str, strategy: str, strength: float, seed: int, at: int
) -> None:
    sentence = worded(words, name, at)
    changed = noisy(sentence, name, strategy, strength=strength, seed=seed)
    assert changed == noisy(sentence, name, strategy, strength=strength, seed=seed)
    assert name in changed
    assert changed.strip()


@given(sentences, names, st.sampled_from(BY_WORD), strengths, strengths, seeds, st.integers(0, 24))
@settings(max_examples=200, deadline=None)
def test_more_strength_changes_no_fewer_words(
    words: list[str], name: str, strategy: str, one: float, other: float, seed: int, at: int
) -> None:
    sentence = worded(words, name, at)

    def changed(strength: float) -> int:
        after = noisy(sentence, name, strategy, strength=strength, seed=seed).replace("close to", "close-to").split()
        if strategy == "drop":
            return sum((Counter(sentence.split()) - Counter(after)).values())
        return sum(a != b for a, b in zip(sentence.split(), after, strict=True))

    low, high = sorted((one, other))
    assert changed(0) == 0 <= changed(low) <= changed(high) <= changed(1)


@pytest.mark.parametrize("strategy", ["template", "paraphrase"])
def test_whole_sentences_change_in_the_share_that_strength_says(strategy: str) -> None:
    material = Material(paraphrases={"cat": ["my cat one", "my cat two"]})
    texts = [f"sentence {i} about a cat." for i in range(400)]

    def changed(strength: float) -> set[str]:
        return {s for s in texts if noisy(s, "cat", strategy, strength=strength, material=material) != s}

    assert 0.2 < len(changed(0.3)) / 400 < 0.4
    assert changed(0.3) < changed(0.8) < changed(1) == set(texts)  # what changed stays changed


def test_what_the_strategies_do() -> None:
    sentence = "A small photo of a sea lake, green and smooth, near trees."
    does = {name: noisy(sentence, "sea lake", name, strength=1) for name in TEXT}
    assert does["identity"] == sentence
    assert does["drop"] == "sea lake,"
    assert does["mask"].count(MASK) == 10
    assert sorted(does["shuffle"].split()) == sorted(sentence.split())
    assert does["shuffle"] != sentence
    assert does["synonym"] == "A little photograph of a sea lake, verdant and even, close to trees."
    assert does["case"] == "A SMALL PHOTO OF A sea lake, GREEN AND SMOOTH, NEAR TREES."
    assert does["plural"] == "A small photos of a sea lake, green and smooth, near tree."
    assert does["template"].endswith(sentence)
    assert does["paraphrase"] == sentence  # none were given
    parts = ("A small photo of a sea lake", "green", "smooth", "near trees")
    assert sorted(does["reorder"].removesuffix(".").replace(" and ", ", ").split(", ")) == sorted(parts)
    assert does["reorder"].split(",")[0] != parts[0]
    short = noisy("a photo of a sea lake.", "sea lake", "template", strength=1)
    assert short in {frame.replace("{}", "sea lake") for frame in PARAPHRASES}
    for old, new in zip(sentence.split(), does["typo"].split(), strict=True):
        assert (old == new) is (len(old.strip(",.")) < 3 or old in ("sea", "lake,"))


def test_the_name_changes_when_told() -> None:
    assert noisy("a photo of a cat", "cat", "plural", strength=1, change_name=True) == "some photos of some cats"
    assert noisy("cat", "cat", "typo", strength=1, change_name=True) != "cat"
    assert noisy("cat", "cat", "typo", strength=1) == "cat"


def test_wrong_arguments() -> None:
    with pytest.raises(UserError, match="Did you mean 'shuffle'"):
        find_strategy("shufle")
    with pytest.raises(ValueError, match="between 0 and 1"):
        noisy("a cat", "cat", "drop", strength=1.5)
    with pytest.raises(ValueError, match="changes features"):
        noisy("a cat", "cat", "weak")


def test_every_strategy_says_what_it_is() -> None:
    for name, strategy in STRATEGIES.items():
        assert strategy.name == name
        assert strategy.about.endswith(".")
        assert strategy.strength
        assert strategy.source


# ---- adapters of before


@given(st.text(alphabet="ab .,;:Photo\nlake", max_size=80), st.sampled_from(["lake", "a", "b.b"]), seeds)
@settings(max_examples=150, deadline=None)
def test_noise_of_adapters_is_drawn_as_ever(sentence: str, name: str, seed: int) -> None:
    for strategy in ("drop", "mask", "shuffle", "synonym"):
        one, other = random.Random(seed), random.Random(seed)
        for text in (sentence, sentence + " small photo near a lake"):  # one generator serves several sentences
            assert add_noise(text, name, strategy, one) == first_noise(text, name, strategy, other)
        assert one.getstate() == other.getstate()


@pytest.mark.parametrize("source", ["drop", "mask", "shuffle", "synonym"])
@pytest.mark.parametrize("aggregate", ["sample", "mean"])
def test_an_adapter_with_strong_noise_has_the_same_bits(
    source: str, aggregate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = anprompt(NAMES, texts=bank(), noise_source=source, aggregate=aggregate)
    monkeypatch.setattr("anprompt.methods.anprompt.add_noise", first_noise)
    before = anprompt(NAMES, texts=bank(), noise_source=source, aggregate=aggregate)
    assert now.blocks[0].extra["f_w"].equal(before.blocks[0].extra["f_w"])
    assert now.noise_prompts.equal(before.noise_prompts)


# ---- material


def test_synonyms_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("# mine\nphoto: snap\nphoto: shot\nbig: huge\n")
    synonyms = find_synonyms(tmp_path / "mine.txt")
    assert synonyms.source == "the file mine.txt with 2 words"
    changed = {noisy("a photo of a cat", "cat", "synonym", strength=1, seed=s, material=Material(synonyms))
               for s in range(20)}  # fmt: skip
    assert changed == {"a snap of a cat", "a shot of a cat"}


def test_synonyms_and_glosses_of_wordnet(wordnet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from anprompt.text import wordnet as module

    monkeypatch.setattr(module, "_places", list)
    assert find_synonyms().source == f"the packaged list of {len(SYNONYMS)} words"
    monkeypatch.setattr(module, "_places", lambda: [wordnet.parent, wordnet])
    for synonyms in (find_synonyms(), find_synonyms(wordnet)):
        assert synonyms.source == "WordNet"
        assert synonyms.of("forest") == ["wood", "woods"]
        assert synonyms.of("large") == ["big"]  # as an adjective, which it mostly is
        assert (synonyms.of("a"), synonyms.of("unheard")) == ([], [])
    found = module.find_wordnet(wordnet)
    assert found is not None
    assert found.glosses("sea bass") == ["the lean flesh of a saltwater fish"]
    assert found.glosses("Forests", limit=2) == ["the trees and other plants in a large densely wooded area",
                                                 "land that is covered with trees"]  # fmt: skip
    assert found.glosses("unheard of") == []
    with pytest.raises(UserError, match="holds no WordNet: its files"):
        find_synonyms(wordnet.parent)


@pytest.fixture
def wordnet(tmp_path: Path) -> Path:
    """A WordNet of four nouns and two adjectives, in the format of wndb(5WN)."""
    data: dict[str, list[tuple[str, list[str], str]]] = {
        "noun": [
            ("n", ["forest", "wood", "woods"], 'the trees and other plants in a large densely wooded area; "a walk"'),
            ("n", ["forest", "woodland"], "land that is covered with trees"),
            ("n", ["sea_bass"], "the lean flesh of a saltwater fish"),
            ("n", ["large"], "a garment size for a large person"),
        ],
        "adj": [("a", ["large", "big(p)"], "above average in size"), ("a", ["tall"], "great in vertical dimension")],
    }
    folder = tmp_path / "wordnet"
    folder.mkdir()
    for part, meanings in data.items():
        body, places = "  1 licence\n", dict[str, list[int]]()
        for kind, words, gloss in meanings:
            for word in words:
                places.setdefault(word.partition("(")[0], []).append(len(body))
            listed = " ".join(f"{word} 0" for word in words)
            body += f"{len(body):08d} 00 {kind} {len(words):02x} {listed} 001 @ 00000000 n 0000 | {gloss}  \n"
        index = "  1 licence\n"
        for word, found in sorted(places.items()):
            tagged = 9 if part == "adj" else 2
            index += f"{word} {part[0]} {len(found)} 2 @ ~ {len(found)} {tagged} " + " ".join(f"{p:08d}" for p in found)
            index += "  \n"
        (folder / f"data.{part}").write_text(body)
        (folder / f"index.{part}").write_text(index)
    return folder


# ---- banks in other words


def test_a_reworded_bank_changes_every_sentence_that_it_gives() -> None:
    plain = DescriptionBank({"cat": ["a small cat", "a big cat"]}, {"cat": ["one big cat"]}, "mine")
    other = plain.reworded(rewriter("synonym", strength=1))
    assert other.main == {"cat": ["a little cat", "a large cat"]}
    assert other.noise == {"cat": ["one large cat"]}
    assert other.of("cat", "{}").main == ("a little cat", "a large cat")
    assert other.fill("a photo of a {}.", "dog") == "a photograph of a dog."
    undescribed = other.of("dog", "a photo of a {}.")
    assert undescribed.main == ("a photograph of a dog.",)
    assert undescribed.noise[0] == "a image of a dog."
    assert plain.reworded(rewriter("identity")).of("dog", "{}.") == plain.of("dog", "{}.")
    assert plain.main == {"cat": ["a small cat", "a big cat"]}
