"""The toy world: drawn pictures, held-out compositions, sentences, and the miniature CLIP that was trained on it."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from anprompt.clip import load_backbone
from anprompt.clip.checkpoint import MINIATURE
from anprompt.data import toyworld, toyworld_words
from anprompt.data.toyworld_draw import RGB
from anprompt.errors import UserError

TOOLS = Path(__file__).parents[1] / "tools"
DIGEST = """
import hashlib
from anprompt.data import toyworld
digest = hashlib.sha256()
for domain in toyworld.DOMAINS:
    digest.update(toyworld.render("striped red star", domain, "test", 7, seed=3).tobytes())
print(digest.hexdigest())
"""


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    sys.path.insert(0, str(TOOLS))
    try:
        import pretrain_miniature
    finally:
        sys.path.remove(str(TOOLS))
    return pretrain_miniature


def array(*args: object, **options: object) -> np.ndarray:
    return np.asarray(toyworld.render(*args, **options), dtype=float)  # type: ignore[arg-type]


def test_same_key_same_pixels_in_another_process() -> None:
    ended = subprocess.run([sys.executable, "-c", DIGEST], capture_output=True, text=True, check=True)
    digest = hashlib.sha256()
    for domain in toyworld.DOMAINS:
        digest.update(toyworld.render("striped red star", domain, "test", 7, seed=3).tobytes())
    assert ended.stdout == digest.hexdigest() + "\n"


def test_every_part_of_the_key_changes_the_picture() -> None:
    name = "striped red star"
    keys = [
        (name, "photo", "train", 0, 0),
        (name, "photo", "train", 1, 0),
        (name, "photo", "test", 0, 0),
        (name, "photo", "train", 0, 1),
        (name, "night", "train", 0, 0),
        ("plain red star", "photo", "train", 0, 0),
    ]
    assert len({toyworld.render(*key).tobytes() for key in keys}) == len(keys)


def test_synonyms_draw_the_same_picture() -> None:
    assert np.array_equal(array("banded crimson star"), array("striped_red_star"))


def test_pictures_of_all_classes_are_small_rgb_and_contain_their_colour() -> None:
    for vocabulary in toyworld.VOCABULARIES:
        for name, kind in zip(toyworld.class_names(vocabulary), toyworld.kinds(vocabulary), strict=True):
            image = toyworld.render(name, "photo", "test", 0)
            assert image.mode == "RGB"
            assert image.size == (toyworld.SIZE, toyworld.SIZE)
            pixels = np.asarray(image, dtype=float).reshape(-1, 3)
            wanted = 255 * np.array(RGB[kind.colour])
            # light and brightness vary, so compare directions of colour
            cosine = (pixels @ wanted) / (np.linalg.norm(pixels, axis=1) * np.linalg.norm(wanted) + 1e-9)
            assert np.sum((cosine > 0.985) & (pixels.max(1) > 100)) > 30, name


def test_classes_are_distinct_and_held_out_of_pretraining() -> None:
    seen = set(toyworld.pretraining_kinds())
    for vocabulary, count in (("shapes", 48), ("signs", 24)):
        kinds = toyworld.kinds(vocabulary)
        assert len(kinds) == len(set(kinds)) == len(set(toyworld.class_names(vocabulary))) == count
        assert not seen & set(kinds)
        assert [toyworld.parse_name(name) for name in toyworld.class_names(vocabulary)] == list(kinds)
    assert len(seen) == 14 * 8 * 6 - 48 - 24
    for part, table in enumerate((toyworld_words.PATTERNS, toyworld_words.COLOURS, toyworld_words.SHAPES)):
        assert {kind[part] for kind in seen} == set(table)  # every part is known from other compositions


def test_base_and_new_cover_every_attribute_about_equally() -> None:
    kinds = toyworld.kinds("shapes")
    for half in (kinds[:24], kinds[24:]):
        for part, table in enumerate((toyworld_words.PATTERNS, toyworld_words.COLOURS, toyworld_words.MAIN_SHAPES)):
            counts = Counter(kind[part] for kind in half)
            assert set(counts) == set(table)
            assert max(counts.values()) - min(counts.values()) <= 2
        rivals = [sum(sum(x == y for x, y in zip(a, b, strict=True)) == 2 for b in half) for a in half]
        assert min(rivals) >= 1  # a hard negative for every class


def test_signs_use_other_shapes_and_words() -> None:
    words = {w for name in toyworld.class_names("shapes") for w in name.split()}
    assert not words & {w for name in toyworld.class_names("signs") for w in name.split()}
    assert len({kind.shape for kind in toyworld.kinds("signs")}) >= 6


def test_domains_look_different_in_the_intended_way() -> None:
    names = toyworld.class_names("shapes")[::6]
    stacks = {d: np.stack([array(n, d, "test", i) for n in names for i in range(3)]) for d in toyworld.DOMAINS}
    photo = stacks["photo"]
    assert stacks["night"].mean() < 0.75 * photo.mean()
    assert stacks["night"][..., 2].mean() > 1.3 * stacks["night"][..., 0].mean()  # blue light
    assert stacks["sketch"].mean() > 1.4 * photo.mean()  # paper

    def roughness(x: np.ndarray) -> float:
        return float(np.abs(np.diff(x, axis=1)).mean())

    assert roughness(stacks["noisy"]) > 1.5 * roughness(photo)


def test_load_gives_virtual_paths_and_keeps_pictures_through_subsets() -> None:
    data = toyworld.load("night", train=3, val=1, test=2)
    assert data.name == "toyworld:night"
    assert {split: len(items) for split, items in data.splits.items()} == {"train": 144, "val": 48, "test": 96}
    first = data.splits["train"][1]
    assert first.path == "toyworld/night/train/plain_red_circle/0001.png"
    assert np.array_equal(np.asarray(data.open(first)), array("plain red circle", "night", "train", 1))
    new = data.subset("new")
    item = new.splits["test"][0]
    assert (item.label, item.name) == (0, data.classes[24])
    assert np.array_equal(np.asarray(new.open(item)), array(item.name, "night", "test", 0))


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("toyworld", ("photo", "shapes")),
        ("toyworld:night", ("night", "shapes")),
        ("toyworld-signs", ("photo", "signs")),
        ("toyworld-signs:sketch", ("sketch", "signs")),
    ],
)
def test_specs(spec: str, expected: tuple[str, str]) -> None:
    assert toyworld.parse_spec(spec) == expected


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: toyworld.parse_spec("toyworld:nigth"), "Did you mean 'night'"),
        (lambda: toyworld.parse_spec("toyworld:"), "Unknown toy world domain ''"),
        (lambda: toyworld.parse_spec("toyworld-sings"), "Did you mean 'toyworld-signs'"),
        (lambda: toyworld.load("foto"), "Did you mean 'photo'"),
        (lambda: toyworld.load("photo", "shape"), "Did you mean 'shapes'"),
        (lambda: toyworld.render("striped red stra"), "Did you mean 'star'"),
        (lambda: toyworld.render("red star"), "no toy-world class"),
        (lambda: toyworld.render("striped red star", split="tset"), "Did you mean 'test'"),
    ],
)
def test_wrong_names_are_one_sentence_with_the_nearest(call: object, message: str) -> None:
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        call()  # type: ignore[operator]


@pytest.mark.parametrize("vocabulary", toyworld.VOCABULARIES)
def test_descriptions_are_unique_and_name_the_attributes(vocabulary: str) -> None:
    names = toyworld.class_names(vocabulary)
    bank = toyworld.descriptions(names)
    assert bank == toyworld.descriptions(names)
    assert set(bank) == {"main", "noise"}
    sentences = [s for kind in bank.values() for group in kind.values() for s in group]
    assert len(set(sentences)) == len(sentences)
    for name, kind in zip(names, toyworld.kinds(vocabulary), strict=True):
        assert len(bank["main"][name]) >= 10
        assert all(name in sentence for sentence in bank["main"][name])
        assert len(bank["noise"][name]) >= 5
        for sentence in bank["noise"][name]:
            assert name not in sentence
            words = set(sentence.replace(",", " ").replace(".", " ").split())
            assert words & set(toyworld_words.COLOURS[kind.colour])
            assert words & set(toyworld_words.SHAPES[kind.shape])
            phrase = toyworld_words.PATTERN_PHRASES[kind.pattern]
            assert words & set(toyworld_words.PATTERNS[kind.pattern]) or phrase in sentence


def test_no_word_belongs_to_two_concepts() -> None:
    tables = (toyworld_words.PATTERNS, toyworld_words.COLOURS, toyworld_words.SHAPES)
    words = [w for table in tables for synonyms in table.values() for w in synonyms]
    assert len(set(words)) == len(words)


def test_export_writes_the_same_pixels_as_files(tmp_path: Path) -> None:
    root = toyworld.export(tmp_path / "photos", "sketch", train=2, test=1, classes=3)
    files = sorted(p.relative_to(root).as_posix() for p in root.rglob("*.png"))
    assert len(files) == 9
    assert "train/striped_orange_square/0001.png" in files
    with Image.open(root / "train/striped_orange_square/0001.png") as image:
        assert np.array_equal(np.asarray(image), array("striped orange square", "sketch", "train", 1))


def test_loss_leaves_out_pairs_that_are_true_by_chance(tool: ModuleType) -> None:
    g = torch.Generator().manual_seed(0)
    image, text = torch.randn(4, 8, generator=g), torch.randn(4, 8, generator=g)
    match = torch.eye(4, dtype=torch.bool)
    match[0, 2] = True  # caption 0 is also true of picture 2
    loss = tool.contrastive_loss(image, text, match, torch.tensor(5.0))
    cosine = torch.nn.functional.cosine_similarity(text[:, None], image[None], dim=-1)
    weights = torch.exp(5 * cosine) * (~match | torch.eye(4, dtype=torch.bool))
    rows, columns = weights.diagonal() / weights.sum(1), weights.diagonal() / weights.sum(0)
    assert torch.allclose(loss, -(rows.log().mean() + columns.log().mean()) / 2, atol=1e-6)


def test_captions_mention_what_they_say_they_mention() -> None:
    rng = random.Random(0)
    kind = toyworld.Kind("dotted", "pink", "crescent")
    tables = (toyworld_words.PATTERNS, toyworld_words.COLOURS, toyworld_words.SHAPES)
    partial = 0
    for _ in range(400):
        text, mentioned = toyworld_words.random_caption(kind, rng)
        partial += mentioned != "pcs"
        for letter, concept, table in zip("pcs", kind, tables, strict=True):
            said = any(word in text for word in table[concept]) or (letter == "p" and "dots" in text)
            assert said == (letter in mentioned), text
    assert 30 < partial < 100


def test_tokenizer_of_the_miniature_is_what_the_tool_builds(tool: ModuleType) -> None:
    built = json.loads(tool.build_tokenizer().to_str())
    assert built == json.loads((MINIATURE / "tokenizer.json").read_text("utf-8"))


def test_miniature_is_small_and_matches_its_recipe() -> None:
    recipe = json.loads((MINIATURE / "recipe.json").read_text("utf-8"))
    weights = (MINIATURE / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == recipe["model_sha256"]
    assert sum(p.stat().st_size for p in MINIATURE.iterdir()) <= 8e6
    assert recipe["command"].startswith("python tools/pretrain_miniature.py")


@pytest.mark.parametrize("domain", ["photo", "night"])
def test_miniature_is_as_accurate_as_its_recipe_says(tool: ModuleType, domain: str) -> None:
    recipe = json.loads((MINIATURE / "recipe.json").read_text("utf-8"))
    recorded = recipe["zero_shot"]["shapes"][domain]["template"]["all"]
    found = tool.accuracy(load_backbone("miniature"), domain, "shapes", 6)["all"]  # 288 pictures of the 960
    assert abs(found - recorded) < 10  # three standard errors
    assert found > 10 * 100 / 48 / 2  # far above chance on unseen compositions
