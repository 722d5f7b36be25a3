"""The tokenizer against ``transformers``, its framing and its errors."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anprompt.clip import ClipTokenizer
from anprompt.clip.tokenizer import EOT, SOT, clean
from anprompt.errors import UserError
from helpers_clip import WORDS, small_tables, small_tokenizer, write_tokenizer

# Texts of any alphabet, without control characters, which have no meaning in captions.
LETTERS = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=40)
CAPTIONS = st.lists(
    st.one_of(st.sampled_from([*WORDS, "A Cat's", "don't", "x2", "&amp;", "  ", "…!?"]), LETTERS), max_size=6
)


def test_ids_are_framed_and_padded() -> None:
    tokenizer = small_tokenizer(context=12)
    vocabulary = small_tables()[0]
    ids = tokenizer(["A  photo\nof a cat", ""])
    words = [vocabulary[f"{word}</w>"] for word in ("a", "photo", "of", "a", "cat")]
    assert ids.tolist() == [
        [vocabulary[SOT], *words, vocabulary[EOT], 0, 0, 0, 0, 0],
        [vocabulary[SOT], vocabulary[EOT], *[0] * 10],
    ]
    assert tokenizer.count("A photo of a cat") == 7
    assert tokenizer([]).shape == (0, 12)
    with pytest.raises(TypeError, match="not one string"):
        tokenizer("a cat")


def test_all_texts_that_are_too_long_are_named() -> None:
    tokenizer = small_tokenizer(context=8)
    texts = ["a cat", "a " * 7, "cat " * 20, "a dog"]
    with pytest.raises(UserError) as error:
        tokenizer(texts)
    message = str(error.value)
    assert "8 tokens" in message
    assert "9 tokens: 'a a a a" in message
    assert f"22 tokens: '{('cat ' * 20)[:60]}…'" in message
    assert "dog" not in message
    cut = tokenizer(texts, truncate=True)
    assert cut[2, -1] == tokenizer.eot_id
    assert torch.equal(cut[2, :-1], tokenizer(["cat " * 6])[0, :-1])
    assert torch.equal(cut[0], tokenizer(["a cat"])[0])


def test_cleaning() -> None:
    assert clean("  a\tcat &amp;amp; a\n dog &lt;3 ") == "a cat & a dog <3"


def agree(ours: ClipTokenizer, oracle: Any, text: str) -> None:
    """``transformers`` neither undoes HTML escapes nor strips characters that only Python counts as white space."""
    assert ours.encode([text])[0] == oracle(clean(text))["input_ids"]
    if html.unescape(text) == text and text.split() == clean(text).split(" "):
        assert ours.encode([text])[0] == oracle(text)["input_ids"]


@settings(max_examples=200, deadline=None)
@given(CAPTIONS, st.booleans())
def test_tokens_equal_transformers(small_oracle: tuple[list[ClipTokenizer], Any], parts: list[str], glue: bool) -> None:
    tokenizers, oracle = small_oracle
    for tokenizer in tokenizers:
        agree(tokenizer, oracle, ("" if glue else " ").join(parts))


@pytest.fixture(scope="module")
def small_oracle(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[ClipTokenizer], Any]:
    """The small vocabulary read from both forms of files, and ``transformers``' tokenizer of it."""
    from transformers import CLIPTokenizer

    vocabulary, merges = small_tables()
    ours = []
    for whole in (True, False):
        folder = tmp_path_factory.mktemp("tokenizer")
        write_tokenizer(folder, whole=whole)
        size = len(vocabulary)
        ours.append(ClipTokenizer.from_folder(folder, eot_id=vocabulary[EOT], context=77, vocabulary=size))
    return ours, CLIPTokenizer(vocab=vocabulary, merges=merges)


@pytest.mark.real
@settings(max_examples=200, deadline=None)
@given(CAPTIONS, st.booleans())
def test_tokens_of_the_stand_in_equal_transformers(
    real_oracle: tuple[list[ClipTokenizer], Any], parts: list[str], glue: bool
) -> None:
    tokenizers, oracle = real_oracle
    for tokenizer in tokenizers:
        agree(tokenizer, oracle, ("" if glue else " ").join(parts))


@pytest.fixture(scope="module")
def real_oracle(real: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[ClipTokenizer], Any]:
    from transformers import CLIPTokenizer

    tables = tmp_path_factory.mktemp("tables")
    for name in ("vocab.json", "merges.txt"):
        (tables / name).write_bytes((real / "clip-standin" / name).read_bytes())
    expected = {"eot_id": 49407, "context": 77, "vocabulary": 49408}
    ours = [ClipTokenizer.from_folder(folder, **expected) for folder in (real / "clip-standin", tables)]
    return ours, CLIPTokenizer.from_pretrained(real / "clip-standin")
