"""Sentences that are put together from lists and counts."""

from __future__ import annotations

from pathlib import Path

from anprompt.commands.lists import counted
from anprompt.pictures import BadImage
from anprompt.settings import listed
from anprompt.text.bank_files import load_bank


def test_one_is_no_plural() -> None:
    assert [counted(n, "seed") for n in (0, 1, 1200)] == ["0 seeds", "1 seed", "1,200 seeds"]


def test_lists_name_all_or_say_how_many_more_there_are() -> None:
    assert listed(list("abcdef")) == "a, b, c, d, e, f"
    assert listed(list("abcdefg")) == "a, b, c, d, e and 2 more"
    assert listed([BadImage(name, "no picture").short for name in "ab"]) == "a: no picture, b: no picture"


def test_descriptions_with_semicolons(tmp_path: Path) -> None:
    file = tmp_path / "texts.csv"
    file.write_text("class;sentence\ncat;a small, furry animal\n", encoding="utf-8")
    assert load_bank(file).main == {"cat": ["a small, furry animal"]}
