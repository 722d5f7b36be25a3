"""The published data sets, one entry each: where copies keep them, how classes are worded, and how many there are.

Folder and file names are CoOp's; templates are those of CoOp's zero-shot tables; counts are those of the published
split files or, for ImageNet and its variants, of the data sets' own descriptions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from anprompt.data.class_rules import (
    as_written,
    capitals_apart,
    folders_reversed,
    last_word_first,
    lettered_folders,
    letters_only,
    name_before_number,
    parent_folder,
)
from anprompt.data.label_files import LabelFile, car_annotations, flower_labels
from anprompt.data.source import Item
from anprompt.errors import UserError, unknown_name

PHOTO = "a photo of a {}."
VARIANTS_FILE = "variants.txt"  # FGVC Aircraft is split by its makers, in text files beside this list of classes
CLASS_LIST = "classnames.txt"  # ImageNet's classes: "n01440764 tench", one per line
SPLIT_NAMES = ("train", "val", "test")


@dataclass(frozen=True)
class Benchmark:
    """One published data set. Everything that distinguishes it from the others is in these fields."""

    name: str  # as in configurations and tables
    title: str  # for people
    folder: str  # below the data root
    template: str
    classes: int
    counts: Mapping[str, int]  # published number of pictures by split
    obtain: str  # where its makers offer it, in words
    tree: tuple[str, ...]  # what CoOp's layout holds, relative to ``folder``
    aliases: tuple[str, ...] = ()  # further names, also of the folder

    # Read from a split file: [path, label, class name] of every picture.
    split_file: str = ""
    picture_folder: str = "."  # the paths of the split file start here
    same_folders: Mapping[str, str] = field(
        default_factory=dict
    )  # folder in the split file -> its name in other copies

    # Read from class folders, as ImageNet: folders by split, the first that is there counts.
    class_folders: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    numbered: bool = False  # a class folder may also be called by the class's number
    only_some: bool = False  # a part of ImageNet's classes, those that have a folder

    # Without the published split, the class of a picture is told by a file of labels or else by its path.
    label_file: LabelFile | None = None
    class_key: Callable[[PurePosixPath], str | None] = parent_folder
    wording: Callable[[str], str] = as_written
    worded: Mapping[str, str] = field(default_factory=dict)  # keys that the rule words otherwise than the split file
    order: Callable[[str], str] = as_written  # of the keys: the order of the class ids
    ignored: frozenset[str] = frozenset()  # keys of folders that are no classes
    own_shares: tuple[float, float] = (0.5, 0.2)  # of a class's pictures, to train and val; the rest is test

    def class_of(self, path: PurePosixPath) -> tuple[str, str] | None:
        """(key, class name) that the place of a picture tells, or None; see ``class_key``."""
        key = self.class_key(path)
        return None if key is None or key in self.ignored else (key, self.worded.get(key) or self.wording(key))


EUROSAT_WORDS = {
    "AnnualCrop": "Annual Crop Land", "HerbaceousVegetation": "Herbaceous Vegetation Land",
    "Highway": "Highway or Road", "Industrial": "Industrial Buildings", "Pasture": "Pasture Land",
    "PermanentCrop": "Permanent Crop Land", "Residential": "Residential Buildings", "SeaLake": "Sea or Lake",
}  # fmt: skip

BENCHMARKS: list[Benchmark] = [
    Benchmark(
        "imagenet", "ImageNet", "imagenet", PHOTO, 1000, {"train": 1_281_167, "test": 50_000},
        "ILSVRC 2012, training and validation pictures, from ImageNet's own page (an account is needed) or Kaggle; the "
        "50,000 validation pictures, sorted into class folders, are the test split",
        ("images/train/<class id>/*.JPEG", "images/val/<class id>/*.JPEG", CLASS_LIST),
        ("ilsvrc2012", "imagenet1k"),
        class_folders={
            "train": ("images/train", "train", "ILSVRC/Data/CLS-LOC/train"),
            "test": ("images/val", "val", "ILSVRC/Data/CLS-LOC/val"),
        },
    ),
    Benchmark(
        "caltech101", "Caltech101", "caltech-101", PHOTO, 100, {"train": 4128, "val": 1649, "test": 2465},
        "caltech-101.zip from CaltechDATA; unpack 101_ObjectCategories.tar.gz inside it",
        ("101_ObjectCategories/<class>/image_0001.jpg", "split_zhou_Caltech101.json"),
        split_file="split_zhou_Caltech101.json", picture_folder="101_ObjectCategories",
        worded={"Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike", "airplanes": "airplane"},
        ignored=frozenset({"BACKGROUND_Google", "Faces_easy"}),
    ),
    Benchmark(
        "oxford_pets", "OxfordPets", "oxford_pets", "a photo of a {}, a type of pet.",
        37, {"train": 2944, "val": 736, "test": 3669},
        "images.tar.gz from the page of the Oxford-IIIT Pet data set (Visual Geometry Group, Oxford)",
        ("images/Abyssinian_1.jpg", "split_zhou_OxfordPets.json"),
        ("pets", "oxford-iiit-pet"),
        split_file="split_zhou_OxfordPets.json", picture_folder="images",
        class_key=name_before_number, own_shares=(0.4, 0.1),
    ),
    Benchmark(
        "stanford_cars", "StanfordCars", "stanford_cars", PHOTO, 196, {"train": 6509, "val": 1635, "test": 8041},
        "the page of its makers (Stanford) no longer offers it: take a copy that keeps the original file names, in "
        "cars_train and cars_test or sorted into train/<class> and test/<class>",
        ("cars_train/00001.jpg", "cars_test/00001.jpg", "split_zhou_StanfordCars.json"),
        ("cars",),
        split_file="split_zhou_StanfordCars.json", same_folders={"cars_train": "train", "cars_test": "test"},
        label_file=car_annotations, wording=last_word_first, own_shares=(0.4, 0.1),
        worded={"Ram C-V Cargo Van Minivan 2012": "2012 Ram C/V Cargo Van Minivan"},  # no "/" in a folder's name
    ),
    Benchmark(
        "oxford_flowers", "Flowers102", "oxford_flowers", "a photo of a {}, a type of flower.",
        102, {"train": 4093, "val": 1633, "test": 2463},
        "102flowers.tgz (and imagelabels.mat) from the page of 102 Category Flowers (Visual Geometry Group, Oxford)",
        ("jpg/image_00001.jpg", "split_zhou_OxfordFlowers.json"),
        ("flowers", "oxford_flowers102", "102flowers"),
        split_file="split_zhou_OxfordFlowers.json", picture_folder="jpg", label_file=flower_labels,
    ),
    Benchmark(
        "food101", "Food101", "food-101", "a photo of {}, a type of food.",
        101, {"train": 50_500, "val": 20_200, "test": 30_300},
        "food-101.tar.gz from the page of Food-101 (Computer Vision Lab, ETH Zürich)",
        ("images/<class>/*.jpg", "split_zhou_Food101.json"),
        ("food",),
        split_file="split_zhou_Food101.json", picture_folder="images",
    ),
    Benchmark(
        "fgvc_aircraft", "FGVCAircraft", "fgvc_aircraft", "a photo of a {}, a type of aircraft.",
        100, {"train": 3334, "val": 3333, "test": 3333},
        "fgvc-aircraft-2013b.tar.gz from the page of FGVC-Aircraft (Visual Geometry Group, Oxford): the content of its "
        "folder data; its own lists are the split",
        ("images/0034309.jpg", VARIANTS_FILE, *(f"images_variant_{split}.txt" for split in SPLIT_NAMES)),
        ("aircraft", "fgvc", "fgvc-aircraft-2013b"),
        split_file=VARIANTS_FILE, picture_folder="images",
    ),
    Benchmark(
        "sun397", "SUN397", "sun397", PHOTO, 397, {"train": 15_880, "val": 3970, "test": 19_850},
        "SUN397.tar.gz from the page of the SUN database (Princeton, MIT), or a copy that keeps its folders",
        ("SUN397/a/abbey/sun_*.jpg", "split_zhou_SUN397.json"),
        ("sun",),
        split_file="split_zhou_SUN397.json", picture_folder="SUN397",
        class_key=lettered_folders, wording=folders_reversed, own_shares=(0.4, 0.1),
    ),
    Benchmark(
        "dtd", "DTD", "dtd", "{} texture.", 47, {"train": 2820, "val": 1128, "test": 1692},
        "dtd-r1.0.1.tar.gz from the page of the Describable Textures Dataset (Visual Geometry Group, Oxford)",
        ("images/<class>/*.jpg", "split_zhou_DescribableTextures.json"),
        ("describable_textures",),
        split_file="split_zhou_DescribableTextures.json", picture_folder="images",
    ),
    Benchmark(
        "eurosat", "EuroSAT", "eurosat", "a centered satellite photo of {}.",
        10, {"train": 13_500, "val": 5400, "test": 8100},
        "EuroSAT.zip, the version in RGB, from its makers' page on GitHub or its record on Zenodo",
        ("2750/AnnualCrop/AnnualCrop_1.jpg", "split_zhou_EuroSAT.json"),
        split_file="split_zhou_EuroSAT.json", picture_folder="2750", worded=EUROSAT_WORDS,
    ),
    Benchmark(
        "ucf101", "UCF101", "ucf101", "a photo of a person doing {}.", 101, {"train": 7639, "val": 1898, "test": 3783},
        "the middle frames of UCF101's videos: CoOp's page of data sets links UCF-101-midframes.zip",
        ("UCF-101-midframes/Apply_Eye_Makeup/v_ApplyEyeMakeup_g01_c01.jpg", "split_zhou_UCF101.json"),
        ("ucf",),
        split_file="split_zhou_UCF101.json", picture_folder="UCF-101-midframes",
        wording=capitals_apart, worded={"HandStandPushups": "Handstand_Pushups"}, order=letters_only,
        own_shares=(0.57, 0.14),
    ),
    Benchmark(
        "imagenetv2", "ImageNetV2", "imagenetv2", PHOTO, 1000, {"test": 10_000},
        "imagenetv2-matched-frequency from its makers' page on GitHub or their copy on Hugging Face",
        ("imagenetv2-matched-frequency-format-val/<0 to 999>/*.jpeg", CLASS_LIST),
        ("imagenet_v2",),
        class_folders={"test": ("imagenetv2-matched-frequency-format-val", "images", ".")}, numbered=True,
    ),
    Benchmark(
        "imagenet_sketch", "ImageNet-Sketch", "imagenet-sketch", PHOTO, 1000, {"test": 50_889},
        "ImageNet-Sketch.zip from its makers' page on GitHub",
        ("images/<class id>/*.JPEG", CLASS_LIST),
        class_folders={"test": ("images", "sketch", ".")},
    ),
    Benchmark(
        "imagenet_a", "ImageNet-A", "imagenet-adversarial", PHOTO, 200, {"test": 7500},
        "imagenet-a.tar from its makers' page on GitHub, 'natural adversarial examples'",
        ("imagenet-a/<class id>/*.jpg", CLASS_LIST),
        ("imagenet-a",),
        class_folders={"test": ("imagenet-a", "images", ".")}, only_some=True,
    ),
    Benchmark(
        "imagenet_r", "ImageNet-R", "imagenet-rendition", PHOTO, 200, {"test": 30_000},
        "imagenet-r.tar from its makers' page on GitHub, 'imagenet-r'",
        ("imagenet-r/<class id>/*.jpg", CLASS_LIST),
        ("imagenet-r",),
        class_folders={"test": ("imagenet-r", "images", ".")}, only_some=True,
    ),
]  # fmt: skip


def register(benchmark: Benchmark) -> None:
    """Add a data set of your own to those that are known by name.

    Raises:
        UserError: one of its names means another data set already.
    """
    for name in (benchmark.name, *_names(benchmark)):
        if (other := match_benchmark(name)) is not None:
            raise UserError(f"The data set '{benchmark.name}' cannot be added: '{name}' already means {other.title}.")
    BENCHMARKS.append(benchmark)


def match_benchmark(name: str) -> Benchmark | None:
    """Return the benchmark of this name, title, alias, folder name or split file name, in any case; None if none is."""
    wanted = _key(name)
    for benchmark in BENCHMARKS:
        if wanted and wanted in map(_key, _names(benchmark)):
            return benchmark
    return None


def find_benchmark(name: str) -> Benchmark:
    """Return the benchmark that ``name`` means, as :func:`match_benchmark` does.

    Raises:
        UserError: unknown name, with the nearest known one.
    """
    benchmark = match_benchmark(name)
    if benchmark is None:
        raise unknown_name("benchmark", name, [known.name for known in BENCHMARKS])
    return benchmark


def find_folder(benchmark: Benchmark, data_root: Path) -> Path | None:
    """Return the folder of ``benchmark`` below ``data_root``: CoOp's name of it, else any of its names; or None."""
    if (usual := data_root / benchmark.folder).is_dir():
        return usual
    keys = {_key(name) for name in _names(benchmark) if name}
    return next((path for path in sorted(data_root.iterdir()) if path.is_dir() and _key(path.name) in keys), None)


def differences(
    benchmark: Benchmark, classes: Sequence[str], splits: Mapping[str, Sequence[Item]], own_split: bool
) -> tuple[str, ...]:
    """What keeps results on these pictures from comparing with published ones, one sentence each; empty if nothing."""
    found: list[str] = []
    if own_split:
        train, val = (f"{share:.0%}" for share in benchmark.own_shares)
        found.append(
            f"{benchmark.title} is split by anprompt ({train} train, {val} val, the rest test, per class), because its "
            "published split is not there"
        )
    if len(classes) != benchmark.classes:
        found.append(f"{benchmark.title} has {len(classes)} classes here, {benchmark.classes} as published")
    there = {split: len(splits.get(split, ())) for split in {**benchmark.counts, **splits}}
    wanted = dict(benchmark.counts)
    if own_split:  # only the sum can be compared
        there, wanted = {"all splits": sum(there.values())}, {"all splits": sum(wanted.values())}
    other = [
        f"{count:,} of {wanted.get(split, 0):,} pictures in {split}"
        for split, count in there.items()
        if count != wanted.get(split, 0)
    ]
    if other:
        found.append(f"{benchmark.title} differs in size from what was published: {', '.join(other)}")
    return tuple(found)


def _names(benchmark: Benchmark) -> Iterable[str]:
    return (benchmark.name, benchmark.title, benchmark.folder, benchmark.split_file, *benchmark.aliases)


def _key(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())
