"""Shared fixtures. Everything runs offline on a CPU."""

from __future__ import annotations

import importlib
import os
import signal
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

from anprompt import PromptClassifier
from anprompt.cli import run
from anprompt.clip import Backbone
from anprompt.settings import Note
from helpers_cli import Cli, Refused
from helpers_clip import hugging_face_model, sizes, write_tokenizer
from helpers_fit import estimator

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["OMP_NUM_THREADS"] = "1"  # of commands run by tests; small models gain nothing from more threads
torch.set_num_threads(1)
settings.register_profile("any machine", deadline=None)  # a busy one takes a second for what takes a millisecond
settings.load_profile("any machine")
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell starts background jobs so; tests press Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
REAL = Path(__file__).resolve().parents[2] / "shared" / "real"


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables are as wide as in a file, wherever the tests are started from."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def no_notes_by_accident() -> Iterator[None]:
    """A note that a test does not expect fails it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Note)
        yield


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real photos, texts, splits and the stand-in backbone; see the marker ``real``."""
    if not REAL.is_dir():
        pytest.skip("real photos and the stand-in backbone are not beside this checkout (../shared/real)")
    return REAL


@pytest.fixture(scope="session")
def small_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face CLIP directory: small random weights, 12 + 12 blocks, pictures of 32 x 32 pixels."""
    folder = tmp_path_factory.mktemp("checkpoint") / "small-clip"
    vision = {**sizes(32, 12, 2, 64), "image_size": 32, "patch_size": 8}
    text = {**sizes(24, 12, 2, 48), "max_position_embeddings": 77}
    hugging_face_model(vision, text, 16).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


COLOURS = {
    "blue star": (30, 60, 200),
    "green circle": (20, 160, 60),
    "red square": (210, 40, 30),
    "white cat": (235, 235, 235),
}


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of four classes, each of its own colour: ``{train,test}/<class>/``, 8 and 4 files each, JPEG and PNG."""
    root = tmp_path_factory.mktemp("data") / "photos"
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for name, colour in COLOURS.items():
            folder = root / split / name.replace(" ", "_")
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.array(colour) + rng.normal(0, 25, (40 + 2 * i, 48, 3))
                suffix = "png" if i % 3 == 0 else "jpg"
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{split}-{i}.{suffix}")
    return root


@pytest.fixture(scope="session")
def small_adapter(small_clip: Path, photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that ``anprompt fit`` wrote: two epochs on ``photo_folder`` with ``small_clip``. Only for reading."""
    folder = tmp_path_factory.mktemp("fit") / "adapter"
    line = f"fit {photo_folder} --backbone {small_clip} --shots 4 --recipe.epochs 2 --out {folder}"
    with warnings.catch_warnings(action="ignore"):  # that there are no descriptions
        assert run(line.split()) == 0
    return folder


@pytest.fixture(scope="module")
def saved(backbone: Backbone, photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of a module's own backbone for the photos."""
    return estimator(backbone).fit(photo_folder).save(tmp_path_factory.mktemp("saved"))


@pytest.fixture
def fitted(saved: Path, backbone: Backbone) -> PromptClassifier:
    """That adapter, loaded anew for each test."""
    return PromptClassifier.load(saved, backbone)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """The command line in this process: ``cli("info", folder)`` returns exit code, stdout and stderr."""
    return Cli(capsys)


@pytest.fixture
def refused(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Runs, in ``tmp_path``, a command that must be refused without a trace; gives the message."""
    monkeypatch.chdir(tmp_path)
    return Refused(cli, tmp_path)


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch, small_adapter: Path) -> None:
    """Loading any backbone fails the test: a mistake must be found before."""
    modules = [importlib.import_module(f"anprompt.{name}") for name in ("settings", "adapter", "demo", "clip")]
    for module in modules:
        monkeypatch.setattr(module, "load_backbone", lambda *_: pytest.fail("a backbone was loaded"))
