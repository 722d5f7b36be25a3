"""Pictures in one folder per class, with or without train/val/test folders above."""

from __future__ import annotations

from pathlib import Path

from anprompt.data.assemble import (
    SPLIT_NAMES,
    build_source,
    canonical_name,
    check_class_names,
    check_class_sets,
)
from anprompt.data.listing import is_visible, list_files
from anprompt.data.source import DataSource
from anprompt.errors import Problems, UserError
from anprompt.outputs import is_marked, is_record
from anprompt.pictures import is_image_name

# Files and folders by which anprompt's own output is known. People run it in the folder of their photos.
OUTPUTS = ("adapter.json", "training/state.safetensors", "training/.lock", "record.json", "robustness.json",
           "explain.json", "demo.json", "records/*/*/*.json", "locks/*.lock", "adapters/*/training/state.safetensors",
           "adapters/*/adapter.json", "anprompt-cache.json")  # fmt: skip
LAYOUT = "<class>/<pictures>, or train/<class>/<pictures> and test/<class>/<pictures>"


def load_folder(root: Path) -> DataSource:
    """Load ``root/<class>/…`` or ``root/{train,val,test}/<class>/…``.

    ``training``, ``valid``, ``validation`` and ``testing`` are splits too. Classes are ordered by folder name; ``_`` in
    it means a space. Sub-folders of a class are searched. Files that are hidden or have no image suffix are ignored,
    and so are folders that anprompt wrote. Without a test folder, 30 % of every class (at least one picture, where a
    class has two) are held out as test, always the same ones, and ``own_split`` is set.

    Raises:
        UserError: no class folders, folders that rather are splits, or all of these together: classes without a
            picture, a single class, empty or double class names, class sets of train, val and test that differ,
            pictures outside the class folders.
    """
    split_folders = _split_folders(root)
    if len(split_folders) == 1:
        _refuse_unknown_splits(root, _visible_folders(split_folders["train"]))
    problems = Problems(f"The folder {root} cannot be used:")
    rows: dict[str, list[tuple[str, str]]] = {}
    names: dict[str, list[str]] = {}
    for split, folder in split_folders.items():
        class_folders = _visible_folders(folder)
        loose = [entry.name for entry in folder.iterdir() if entry.is_file() and is_image_name(entry.name)]
        if not class_folders:
            held = f"{len(loose)} pictures but no class folders" if loose else "no class folders"
            raise UserError(f"The folder {folder} holds {held}; expected {root.name}/{LAYOUT}.")
        if loose:
            problems.add(f"{len(loose)} pictures lie in {folder}, outside the class folders, such as {min(loose)}")
        check_class_names([(path.name, f"{path.relative_to(root)}/") for path in class_folders], problems)
        names[split] = [canonical_name(path.name) for path in class_folders]
        rows[split] = []
        for path, name in zip(class_folders, names[split], strict=True):
            pictures = [file for file in list_files(path) if is_image_name(Path(file).name)]
            if not pictures:
                problems.add(f"class '{name}' has no picture in {path.relative_to(root)}/")
            rows[split] += [(str(path / picture), name) for picture in pictures]
    check_class_sets({split: [name for name in listed if name] for split, listed in names.items()}, problems)
    if len(names["train"]) == 1:
        problems.add(_one_class(split_folders["train"]))
    problems.raise_if_any()
    return build_source(root.resolve().name, root, names["train"], rows)


def _visible_folders(folder: Path) -> list[Path]:
    try:
        found = sorted(path for path in folder.iterdir() if path.is_dir() and is_visible(path.name))
    except PermissionError as error:
        raise UserError(f"Cannot read the folder {folder}: {error.strerror}.") from error
    return [path for path in found if not _is_output(path)]


def _is_output(folder: Path) -> bool:
    """Whether anprompt wrote ``folder``: an adapter, a run or benchmark (also interrupted), a study, a cache."""
    return any(_is_ours(file) for pattern in OUTPUTS for file in folder.glob(pattern))


def _is_ours(file: Path) -> bool:
    """Whether a file of that name is ours: a camera may well write ``record.json`` beside the pictures of a class."""
    if file.name == "adapter.json":
        return is_marked(file, '"anprompt-adapter"')
    return file.suffix != ".json" or file.name == "anprompt-cache.json" or is_record(file)


def _refuse_unknown_splits(root: Path, folders: list[Path]) -> None:
    """Folders that hold nothing but the same sub-folders are no classes: these sub-folders are."""
    inner: list[set[str]] = []
    for folder in folders:
        if any(entry.is_file() and is_image_name(entry.name) for entry in folder.iterdir()):
            return
        inner.append({path.name for path in _visible_folders(folder)})
    shared = sorted(set.intersection(*inner)) if len(inner) > 1 else []
    if len(shared) > 1:
        names, same = (", ".join([*some[:3], *(["…"] if len(some) > 3 else [])])
                       for some in ([folder.name for folder in folders], shared))  # fmt: skip
        raise UserError(
            f"The folders {names} in {root} all hold the folders {same} and no pictures: if those are the classes, "
            f"call the folders above them train and test (allowed are {', '.join(SPLIT_NAMES)}); if they are not, list "
            "the pictures in a CSV file."
        )


def _split_folders(root: Path) -> dict[str, Path]:
    """Return the folders of the splits; a folder without split folders is all training data."""
    folders = _visible_folders(root)
    splits = [folder for folder in folders if folder.name.lower() in SPLIT_NAMES]
    found: dict[str, Path] = {}
    for folder in splits:
        split = SPLIT_NAMES[folder.name.lower()]
        if split in found and len(splits) == len(folders):
            raise UserError(f"Both {found[split]} and {folder} are the {split} split; keep one of them.")
        found[split] = folder
    if "train" not in found and len(found) > 1 and len(splits) == len(folders):
        raise UserError(f"The folder {root} holds {' and '.join(found)} but no train; expected {LAYOUT}.")
    if "train" not in found or len(found) == 1 < len(folders):
        return {"train": root}  # one class may well be called "train"
    if len(splits) < len(folders):
        others = ", ".join(folder.name for folder in folders if folder not in splits)
        raise UserError(f"The folder {root} holds {', '.join(found)} and other folders ({others}); expected {LAYOUT}.")
    return {split: found[split] for split in ("train", "val", "test") if split in found}


def _one_class(folder: Path) -> str:
    only = _visible_folders(folder)[0]
    inner = len(_visible_folders(only))
    hint = f"; if its {inner} folders are the classes, give {only} instead" if inner > 1 else ""
    return f"there is only one class ('{canonical_name(only.name)}'), and at least two are needed{hint}"
