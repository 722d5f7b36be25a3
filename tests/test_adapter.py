"""Adapters: what is in the files, bit-identical loading, refusal of everything that does not fit, sizes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from anprompt import __version__, methods
from anprompt.adapter import (
    CARD,
    DOCUMENT,
    TENSORS,
    load_adapter,
    read_document,
    round_to_storage,
    save_adapter,
)
from anprompt.clip import Backbone, ImageTransform
from anprompt.errors import UserError
from anprompt.files import sha256_file
from anprompt.methods import ClassBlock, Method
from anprompt.methods.count import VIT_B_16
from anprompt.training import train
from helpers_clip import random_backbone
from helpers_fit import ABOUT, BANK, CLASSES, copies, new_method, pictures, same, short_recipe, trained


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return random_backbone().transform.normalise(torch.stack([image[:, :32, :32] for image in pictures(5).images]))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    save_adapter(folder, trained(), ABOUT)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """An adapter of the paper's preset."""
    return Path(shutil.copytree(saved, tmp_path / "adapter"))


# ---- what is in the files --------------------------------------------------------------------------------------------


def test_exactly_the_learned_tensors_and_frozen_prompts_are_stored(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted([TENSORS, DOCUMENT, CARD])
    maps = {f"{to}.maps.{i}.{part}" for to in ("to_text", "to_vision") for i in range(7) for part in ("weight", "bias")}
    tensors = load_file(folder / TENSORS)
    assert set(tensors) == {"prompts", "noise_prompts", "projection"} | maps
    assert tensors.pop("noise_prompts").dtype == torch.float32
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    with safe_open(folder / TENSORS, framework="pt") as file:
        assert file.metadata() == {"format": "anprompt-adapter"}


def test_exactly_three_tensors_are_stored_when_baked(tmp_path: Path) -> None:
    method = trained()
    method.bake()
    save_adapter(tmp_path, method, ABOUT)
    found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in load_file(tmp_path / TENSORS).items()}
    assert found == {
        "baked_vision": ((7, 5, 32), torch.float32),
        "baked_text": ((7, 5, 24), torch.float16),
        "baked_weights": ((3, 16), torch.float32),
    }
    assert read_document(tmp_path)["texts"] == {"main": {}, "noise": {}, "source": "templates"}


def test_the_document(folder: Path) -> None:
    document = json.loads((folder / DOCUMENT).read_text(encoding="utf-8"))
    assert (document["format"], document["format_version"]) == ("anprompt-adapter", 1)
    assert document["package_version"] == __version__
    assert (document["method"], document["seed"], document["baked"]) == ("anprompt", 1, False)
    assert document["class_blocks"] == [{"names": list(CLASSES), "trained": True}]
    expected = random_backbone()
    own = {"source": "random", "weights_sha256": expected.weights_hash, "computes": expected.computes}
    assert document["backbone"] == own
    assert document["options"] == methods.resolve_options("anprompt", "paper")
    assert document["files"] == {
        TENSORS: {"sha256": sha256_file(folder / TENSORS), "bytes": (folder / TENSORS).stat().st_size}
    }
    assert document["recipe"] == ABOUT["recipe"]
    assert document["decision"] == "0.7·ℓ_A + 0.3·ℓ_R"
    for name in CLASSES:  # only the drawn sentences, one of each kind
        assert [len(document["texts"][kind][name]) for kind in ("main", "noise")] == [1, 1]
        assert document["texts"]["main"][name][0] in BANK.main[name]
        assert document["texts"]["noise"][name][0] in BANK.noise[name]
    card = (folder / CARD).read_text(encoding="utf-8")
    assert "cat, dog, house" in card
    assert random_backbone().weights_hash[:16] in card


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    method = trained()
    for name in "ab":
        save_adapter(tmp_path / name, method, ABOUT)
    for file in (TENSORS, DOCUMENT, CARD):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("storage", ["fp16", "fp32"])
def test_the_reader_in_the_documentation_reads_it(storage: str, tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "adapter-format.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(code, names)
    method = trained(storage=storage, resample="epoch")
    method.add_classes(["tree"], method.bank)
    save_adapter(tmp_path, method, {**ABOUT, "storage": storage})
    document, classes, tensors = names["read_adapter"](tmp_path)
    assert document == read_document(tmp_path)
    assert classes == [*CLASSES, "tree"]
    assert tensors.keys() == method.state_dict().keys()
    for name, tensor in method.state_dict().items():
        assert np.array_equal(tensors[name], tensor.numpy())


def test_baked_predictions_as_the_documentation_describes_them(pixels: Tensor, tmp_path: Path) -> None:
    method = trained(mix=0.75, layers="4-8")
    method.bake()
    save_adapter(tmp_path, method, ABOUT)
    tensors, backbone = load_file(tmp_path / TENSORS), random_backbone()
    tower = backbone.vision
    x = tower.run(tower.embed(pixels), 1, 3)
    x = torch.cat([x[:, :1], tensors["baked_vision"][0].expand(len(x), -1, -1), x[:, 1:]], dim=1)
    for i, block in enumerate(range(4, 13)):
        if 0 < i < 5:
            mixed = 0.75 * tensors["baked_vision"][i] + 0.25 * x[:, 1:6]
            x = torch.cat([x[:, :1], mixed, x[:, 6:]], dim=1)
        x = tower.run(x, block, block)
    features = torch.nn.functional.normalize(tower.read(x[:, 0]), dim=-1)
    logits = backbone.logit_scale * features @ tensors["baked_weights"].T
    assert torch.allclose(logits, method.logits(pixels), atol=1e-4)


# ---- loading ---------------------------------------------------------------------------------------------------------

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "paper": ("anprompt", {"preset": "paper"}),
    "snapshot": ("anprompt", {"preset": "snapshot"}),
    "mean": ("anprompt", {"aggregate": "mean"}),
    "main": ("anprompt", {"noise_source": "main"}),
    "strong noise": ("anprompt", {"noise_source": "drop"}),
    "shared draw": ("anprompt", {"draw": "shared", "maps": "shared"}),
    "epoch": ("anprompt", {"resample": "epoch"}),
    "zero-shot": ("zero-shot", {}),
    "zero-shot ensemble": ("zero-shot", {"preset": "ensemble"}),
    "zero-shot descriptions": ("zero-shot", {"preset": "descriptions"}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_loaded_adapter_predicts_bit_identically(case: str, pixels: Tensor, tmp_path: Path) -> None:
    name, options = CASES[case]
    method = trained(name, **options)
    before = method.logits(pixels)
    save_adapter(tmp_path / "a", method, ABOUT)
    loaded, document = load_adapter(tmp_path / "a", random_backbone())
    assert torch.equal(loaded.logits(pixels), before)
    assert same(copies(loaded), copies(method))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert loaded.class_names == list(CLASSES)
    assert document["decision"] == method.decision() == loaded.decision()

    method.add_classes(["tree"], method.bank.with_class("tree", ["a large tree in the forest.", "the tree."]))
    method.add_classes(["river"], method.bank)  # from the template
    after = method.logits(pixels)
    assert torch.equal(after[:, :3], before)
    save_adapter(tmp_path / "b", method, ABOUT)
    loaded, _ = load_adapter(tmp_path / "b", random_backbone())
    assert loaded.class_names == [*CLASSES, "tree", "river"]
    assert torch.equal(loaded.logits(pixels), after)
    save_adapter(tmp_path / "c", loaded, ABOUT)
    again, _ = load_adapter(tmp_path / "c", random_backbone())
    assert torch.equal(again.logits(pixels), after), "after a second saving, too"


def test_fp32_storage_is_exact(pixels: Tensor, tmp_path: Path) -> None:
    method = new_method()
    train(method, pictures(8), short_recipe(epochs=1), seed=1)
    exact = copies(method)
    round_to_storage(method, "fp32")
    assert same(copies(method), exact)
    save_adapter(tmp_path, method, {**ABOUT, "storage": "fp32"})
    loaded, _ = load_adapter(tmp_path, random_backbone())
    assert same(copies(loaded), exact)
    round_to_storage(method, "fp16")
    assert not same(copies(method), exact)


def test_numbers_beyond_fp16_are_refused_before_anything_is_saved() -> None:
    method = new_method()
    with torch.no_grad():
        cast(Any, method).prompts[0, 0] = 7e4
    with pytest.raises(UserError, match="'prompts' are too large for fp16"):
        round_to_storage(method, "fp16")
    round_to_storage(method, "fp32")


def test_baked_adapters(pixels: Tensor, tmp_path: Path) -> None:
    method = trained()
    whole = method.logits(pixels)
    method.bake()
    assert torch.allclose(method.logits(pixels), whole, rtol=1e-4, atol=1e-4)
    save_adapter(tmp_path / "a", method, ABOUT)
    loaded, document = load_adapter(tmp_path / "a", random_backbone())
    assert document["baked"] is True
    assert torch.equal(loaded.logits(pixels), method.logits(pixels))

    loaded.add_classes(["tree"], loaded.bank.with_class("tree", ["a large tree in the forest."]))
    grown = loaded.logits(pixels)
    assert torch.equal(grown[:, :3], method.logits(pixels))
    save_adapter(tmp_path / "b", loaded, ABOUT)
    assert load_file(tmp_path / "b" / TENSORS)["baked_weights"].shape == (4, 16)
    again, _ = load_adapter(tmp_path / "b", random_backbone())
    assert again.class_names == [*CLASSES, "tree"]
    assert torch.equal(again.logits(pixels), grown)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux says which files are mapped")
@pytest.mark.parametrize("baked", [False, True])
def test_a_loaded_adapter_does_not_live_in_its_file(baked: bool, tmp_path: Path) -> None:
    """Windows replaces no file that is mapped into memory: it could not be saved where it came from."""
    method = trained()
    if baked:
        method.bake()
    save_adapter(tmp_path, method, ABOUT)
    loaded, _ = load_adapter(tmp_path, random_backbone())
    assert str(tmp_path / TENSORS) not in Path("/proc/self/maps").read_text()
    save_adapter(tmp_path, loaded, ABOUT)


def test_a_view_over_other_classes_can_be_saved(pixels: Tensor, tmp_path: Path) -> None:
    view = trained().with_classes(["river", "cat"], BANK)
    save_adapter(tmp_path, view, ABOUT)
    loaded, document = load_adapter(tmp_path, random_backbone())
    assert document["class_blocks"] == [{"names": ["river"], "trained": False}, {"names": ["cat"], "trained": True}]
    assert torch.equal(loaded.logits(pixels), view.logits(pixels))


def test_methods_without_a_smaller_form_say_so() -> None:
    with pytest.raises(UserError, match="no smaller form"):
        trained("zero-shot").bake()
    with pytest.raises(UserError, match="partner='prototype'"):
        trained(preset="snapshot").bake()


# ---- sizes on ViT-B/16 -----------------------------------------------------------------------------------------------


def of_vit_b_16(classes: int) -> Method:
    """ANPrompt on the shapes of ViT-B/16; the towers themselves have no numbers."""
    with torch.device("meta"):
        transform = ImageTransform(224, 224)
        backbone = Backbone(VIT_B_16, cast(Any, None), transform, source="openai/clip-vit-base-patch16")
        method = methods.build("anprompt", backbone)
    backbone.vision.cls = nn.Parameter(torch.zeros(768), requires_grad=False)  # says where tensors go: to the CPU
    vars(backbone)["weights_hash"] = "0" * 64
    method.to_empty(device="cpu").load_state_dict({n: torch.zeros(t.shape) for n, t in method.state_dict().items()})
    names = tuple(f"class number {i} with a long name" for i in range(classes))
    method.blocks = [ClassBlock(names, None)]
    sentences = {
        name: [f"A photo of {name}, as a language model would describe it in two lines." * 2] for name in names
    }
    method.bank = type(BANK)(sentences, sentences, "main.json + hpt.json")
    return method


@pytest.mark.parametrize("classes", [5, 100])
def test_size_on_vit_b_16(classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = of_vit_b_16(classes)
    save_adapter(tmp_path / "whole", method, ABOUT)
    assert (tmp_path / "whole" / TENSORS).stat().st_size > 2 * 4_992_256
    assert sum(path.stat().st_size for path in (tmp_path / "whole").iterdir()) < 12e6

    weights = torch.zeros(classes, 512)
    monkeypatch.setattr(method, "kept_weights", lambda block: weights)
    method.bake()
    save_adapter(tmp_path / "baked", method, ABOUT)
    size = sum((tmp_path / "baked" / name).stat().st_size for name in (TENSORS, DOCUMENT))
    assert size < 1024 * (150 + 2 * classes)
