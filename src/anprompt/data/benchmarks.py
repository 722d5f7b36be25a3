"""The published data sets: where CoOp's layout keeps them, and how a class is worded (card 0.5, table T_std)."""

from __future__ import annotations

from dataclasses import dataclass

from anprompt.errors import unknown_name


@dataclass(frozen=True)
class Benchmark:
    """One published data set in CoOp's layout."""

    name: str  # as in configurations and tables
    title: str  # for people
    folder: str  # below the data root
    split_file: str  # names the splits, inside the folder
    picture_folder: str  # inside the folder; the paths of the split file start here
    template: str
    aliases: tuple[str, ...] = ()


PHOTO = "a photo of a {}."
VARIANTS_FILE = "variants.txt"  # FGVC Aircraft is split by its makers, in text files beside this list of classes

BENCHMARKS = (
    Benchmark("caltech101", "Caltech101", "caltech-101", "split_zhou_Caltech101.json", "101_ObjectCategories", PHOTO),
    Benchmark(
        "oxford_pets", "OxfordPets", "oxford_pets", "split_zhou_OxfordPets.json", "images",
        "a photo of a {}, a type of pet.", ("pets",),
    ),
    Benchmark("stanford_cars", "StanfordCars", "stanford_cars", "split_zhou_StanfordCars.json", ".", PHOTO, ("cars",)),
    Benchmark(
        "oxford_flowers", "Flowers102", "oxford_flowers", "split_zhou_OxfordFlowers.json", "jpg",
        "a photo of a {}, a type of flower.", ("flowers", "oxford_flowers102"),
    ),
    Benchmark(
        "food101", "Food101", "food-101", "split_zhou_Food101.json", "images",
        "a photo of {}, a type of food.", ("food",),
    ),
    Benchmark(
        "fgvc_aircraft", "FGVCAircraft", "fgvc_aircraft", VARIANTS_FILE, "images",
        "a photo of a {}, a type of aircraft.", ("aircraft", "fgvc"),
    ),
    Benchmark("sun397", "SUN397", "sun397", "split_zhou_SUN397.json", "SUN397", PHOTO, ("sun",)),
    Benchmark(
        "dtd", "DTD", "dtd", "split_zhou_DescribableTextures.json", "images", "{} texture.", ("describable_textures",)
    ),
    Benchmark("eurosat", "EuroSAT", "eurosat", "split_zhou_EuroSAT.json", "2750", "a centered satellite photo of {}."),
    Benchmark(
        "ucf101", "UCF101", "ucf101", "split_zhou_UCF101.json", "UCF-101-midframes",
        "a photo of a person doing {}.", ("ucf",),
    ),
)  # fmt: skip


def match_benchmark(name: str) -> Benchmark | None:
    """Return the benchmark of this name, title, alias, folder name or split file name, in any case; None if none is."""
    wanted = _key(name)
    for benchmark in BENCHMARKS:
        known = (benchmark.name, benchmark.title, benchmark.folder, benchmark.split_file, *benchmark.aliases)
        if wanted and wanted in map(_key, known):
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


def _key(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())
