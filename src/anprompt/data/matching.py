"""Where the pictures of a split file lie in somebody's copy, and exactly which ones do not."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from anprompt.data.listing import list_kept
from anprompt.data.source import Item
from anprompt.errors import UserError

SHOWN_FILES = 5
SHOWN_CLASSES = 8


@dataclass(frozen=True)
class Matched:
    """Result of :meth:`PictureFinder.find`: files by listed path, and several files where one cannot be chosen."""

    files: dict[str, str] = field(default_factory=dict)
    ambiguous: dict[str, list[str]] = field(default_factory=dict)


class MissingPictures(UserError):
    """Pictures of a split file that are not there, or that several files could be.

    ``missing``: entries of the split file, by split. ``ambiguous``: candidates by listed path. ``listed``: how many
    entries a split has.
    """

    def __init__(
        self, split_file: Path, finder: PictureFinder, missing: dict[str, list[Item]], ambiguous: dict[str, list[str]],
        listed: dict[str, int],
    ) -> None:  # fmt: skip
        self.missing, self.ambiguous, self.listed = missing, ambiguous, listed
        total = sum(listed.values())
        items = [item for entries in missing.values() for item in entries]
        absent = [item for item in items if item.path not in ambiguous]
        lines: list[str] = []
        if absent:
            looked = ", ".join(str(finder.root / prefix) for prefix in finder.prefixes)
            lines.append(
                f"{len(absent)} of the {total} pictures that {split_file} names are absent below {finder.root}: "
                f"{shortened([item.path for item in absent], SHOWN_FILES)} (looked in {looked} and by file name)."
            )
            counts = Counter(item.name for item in absent)
            lines.append(f"By class: {shortened([f'{n} of {name}' for name, n in counts.items()], SHOWN_CLASSES)}.")
            lines += finder.renamed(absent)
        if ambiguous:
            several = [f"{path} ({', '.join(files)})" for path, files in ambiguous.items()]
            lines.append(
                f"{len(ambiguous)} of the {total} pictures that {split_file} names could each be one of several files "
                f"below {finder.root}: {shortened(several, SHOWN_FILES)}. Keep one copy."
            )
        super().__init__("\n".join(lines))


class PictureFinder:
    """Finds the pictures of a split file among the files that are really there, whatever the copy's layout.

    First by relative path below the data set's picture folder, ``images/`` or the folder itself, then by relative path
    anywhere below the folder, then by file name. By file name only where nothing else could be meant: the name is
    listed once, or the file lies in a folder named as in the list (``same_folders`` gives other names of these).

    class_of: name of the class that a file's place tells, if it does: a file of another class is not taken.
    """

    def __init__(
        self, root: Path, picture_folder: str, *, same_folders: Mapping[str, str] | None = None,
        class_of: Callable[[PurePosixPath], str | None] = lambda _: None,
    ) -> None:  # fmt: skip
        self.root = root
        self.prefixes = tuple(dict.fromkeys((picture_folder, "images", ".")))
        self.same_folders = dict(same_folders or {})
        self.class_of = class_of
        self.listed: set[str] = set()  # names of the folders in the split file
        self.files = set(list_kept(root))
        self.by_name: dict[str, list[str]] = defaultdict(list)
        for file in sorted(self.files):
            self.by_name[_file_name(file)].append(file)

    def find(self, items: Iterable[Item]) -> Matched:
        """Match the entries of a split file; ``item.path`` is the listed path."""
        entries = {item.path: item for item in items}
        times = Counter(map(_file_name, entries))
        known = {plain(item.name) for item in entries.values()}
        self.listed = {PurePosixPath(path).parent.name for path in entries}
        matched = Matched()
        guessed: list[str] = []  # matched by the file's name only
        for path, item in entries.items():
            exact = self._exact(path)
            candidates = exact or self._by_name(item, times[_file_name(path)] == 1, known)
            if len(candidates) == 1:
                matched.files[path] = candidates[0]
                if not exact:
                    guessed.append(path)
            elif candidates:
                matched.ambiguous[path] = candidates
        uses = Counter(matched.files.values())
        for path in [path for path in guessed if uses[matched.files[path]] > 1]:
            del matched.files[path]  # one file cannot be two pictures
        return matched

    def _exact(self, path: str) -> list[str]:
        for prefix in self.prefixes:
            if (file := (PurePosixPath(prefix) / path).as_posix()) in self.files:
                return [file]
        return [file for file in self.by_name.get(_file_name(path), ()) if file.endswith("/" + path)]

    def _by_name(self, item: Item, listed_once: bool, known: set[str]) -> list[str]:
        folders = [name.casefold() for name in PurePosixPath(item.path).parent.parts]
        other = [self.same_folders.get(name, name).casefold() for name in PurePosixPath(item.path).parent.parts]

        def fits(file: str) -> bool:
            path = PurePosixPath(file)
            above = {name.casefold() for name in path.parent.parts}
            if not listed_once and not (folders and (above.issuperset(folders) or above.issuperset(other))):
                return False  # image_0001.jpg in every class: the name alone could fetch another class's picture
            told = self.class_of(path)
            return told is None or plain(told) not in known or plain(told) == plain(item.name)

        return [file for file in self.by_name.get(_file_name(item.path), ()) if fits(file)]

    def renamed(self, absent: Iterable[Item]) -> list[str]:
        """Sentences about folders of the list that seem to have another name here: all of their files lie in one."""
        held: dict[str, set[str]] = defaultdict(set)
        for file in self.files:
            held[file.rpartition("/")[0]].add(_file_name(file))
        there = {_file_name(place) for place in held}
        wanted: dict[str, set[str]] = defaultdict(set)
        for item in absent:
            if (folder := PurePosixPath(item.path).parent.name) and folder not in there:
                wanted[folder].add(_file_name(item.path))
        found: list[str] = []
        for folder, names in wanted.items():
            places = [place for place, files in held.items() if files >= names and _file_name(place) not in self.listed]
            if len(places) == 1:
                found.append(f"The folder '{places[0]}' holds files of the names of '{folder}': was it renamed?")
        return found


def plain(name: str) -> str:
    """A class name without case, spaces and underscores, to compare folders of different copies."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def shortened(entries: list[str], limit: int) -> str:
    """The first few entries in one line, with "…" if some are left out."""
    return ", ".join(entries[:limit]) + (", …" if len(entries) > limit else "")


def _file_name(path: str) -> str:
    return path.rpartition("/")[2]
