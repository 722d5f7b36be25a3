"""How the copies of published data sets tell the class of a picture: rules that the entries in benchmarks.py name.

A rule turns a picture's path, relative to the data set's folder, into the key of its class: what its makers called the
class, also the order of the classes. Another rule words that key. Neither knows a data set.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import PurePosixPath


def parent_folder(path: PurePosixPath) -> str | None:
    """``…/<class>/<picture>``."""
    return path.parent.name or None


def lettered_folders(path: PurePosixPath) -> str | None:
    """``…/a/apse/indoor/<picture>`` -> ``apse/indoor``: what follows a folder of one letter, its initial."""
    folders = path.parent.parts
    for i, (letter, name) in enumerate(pairwise(folders), start=1):
        if len(letter) == 1 and name.startswith(letter):
            return "/".join(folders[i:])
    return None


def name_before_number(path: PurePosixPath) -> str | None:
    """``…/american_bulldog_12.jpg`` -> ``american_bulldog``, in small letters."""
    name, _, number = path.stem.rpartition("_")
    return name.lower() if name and number.isdigit() else None


def as_written(key: str) -> str:
    return key


def last_word_first(key: str) -> str:
    """``Audi TTS Coupe 2012`` -> ``2012 Audi TTS Coupe``."""
    rest, _, last = key.rpartition(" ")
    return f"{last} {rest}".strip()


def folders_reversed(key: str) -> str:
    """``apse/indoor`` -> ``indoor apse``."""
    return " ".join(reversed(key.split("/")))


def capitals_apart(key: str) -> str:
    """``ApplyEyeMakeup`` and ``Apply_Eye_Makeup`` -> ``Apply_Eye_Makeup``."""
    return "_".join(re.findall(r"[A-Z][^A-Z_]*", key)) or key


def letters_only(key: str) -> str:
    """What is left without case, spaces and underscores."""
    return "".join(letter for letter in key.casefold() if letter.isalnum())
