"""Wording robustness: identity changes nothing at all, weak noise less than strong noise, intervals that shrink."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anprompt import methods
from anprompt.analysis.robustness import (
    Noise,
    Subject,
    _harm,
    class_weights,
    curve,
    encode,
    interval,
    measure,
    noise_sentences,
    parse_noises,
    reworded,
    shift,
)
from anprompt.data import BadImage, open_data
from anprompt.errors import UserError
from anprompt.methods.contexts import prompted, worded
from anprompt.text import DEFAULT_TEMPLATE, DescriptionBank, load_bank, write_bank
from anprompt.text.noise import Material
from helpers_cli import Cli
from helpers_methods import NAMES, FewPhotos, anprompt, bank, batch, perturb, small_backbone

MATERIAL = Material(paraphrases=noise_sentences(bank(), NAMES, DEFAULT_TEMPLATE))
LABELS = [i % len(NAMES) for i in range(48)]


def noise(name: str, strength: float | None = None) -> Noise:
    return parse_noises(name, strength)[0]


def subject(method: methods.Method, name: str = "m") -> Subject:
    with torch.no_grad():
        return Subject(name, method.requires_grad_(False), method.image_features(batch(48)["pixels"]))


def zero_shot(text: str = "template") -> methods.Method:
    return methods.create("zero-shot", small_backbone(), NAMES, texts=bank(), text=text)


@pytest.fixture(scope="module")
def subjects() -> dict[str, Subject]:
    made = {"template": zero_shot(), "descriptions": zero_shot("descriptions"), "ensemble": zero_shot("ensemble"),
            "anprompt": anprompt(), "snapshot": anprompt(preset="snapshot"),
            "drop": anprompt(noise_source="drop", aggregate="mean")}  # fmt: skip
    return {name: subject(method, name) for name, method in made.items()}


def measured(of: Subject, what: Noise, **settings: Any) -> dict[str, Any]:
    return measure(of, LABELS, what, MATERIAL, **{"wordings": 3, "seed": 1, **settings})


# ---- the measures


@pytest.mark.parametrize("what", ["identity", "case", "weak:0", "drop:0", "paraphrase:0"])
@pytest.mark.parametrize("name", ["template", "descriptions", "ensemble", "anprompt", "snapshot", "drop"])
def test_no_noise_changes_nothing_at_all(name: str, what: str, subjects: dict[str, Subject]) -> None:
    if what == "case" and name == "drop":
        return  # its own noise is drawn from the words as they are written
    found = measured(subjects[name], noise(what), wordings=2)
    assert found["text_shift"] == {"value": 0, "interval": (0, 0)}
    assert found["logit_preservation"] == {"value": 1, "interval": (1, 1)}
    assert found["accuracy_shift"] == {"value": 0, "interval": (0, 0)}
    assert found["accuracy"]["value"] == found["clean_accuracy"]
    assert all(entry["harm"] == entry["shift"] == 0 for entry in found["per_class"])


@pytest.mark.parametrize("name", ["template", "descriptions", "anprompt", "snapshot"])
def test_weak_noise_grows_with_alpha(name: str, subjects: dict[str, Subject]) -> None:
    shifts = [
        measured(subjects[name], noise(f"weak:{alpha}"))["text_shift"]["value"] for alpha in (0.001, 0.01, 0.1, 1)
    ]
    assert shifts == sorted(shifts)
    assert shifts[1] / shifts[0] == pytest.approx(100, rel=0.05)  # for small α it grows with its square
    for strong in ("drop", "mask", "shuffle"):
        assert measured(subjects[name], noise(strong))["text_shift"]["value"] > 10 * shifts[1]


def test_weak_noise_of_zero_shot_is_equation_2(subjects: dict[str, Subject]) -> None:
    backbone = small_backbone()
    view = reworded(
        subjects["template"].method, noise("weak:0.2"), 1, Material(paraphrases={n: [f"the {n}"] for n in NAMES})
    )
    f_m = backbone.encode_text([f"a photo of a {name}." for name in NAMES])
    f_n = backbone.encode_text([f"the {name}" for name in NAMES])
    expected = torch.nn.functional.normalize(f_m + 0.2 * f_n, dim=1)  # (2)
    assert torch.allclose(view.kept_weights(view.blocks[0]), expected, atol=1e-6)


def test_measures_by_hand() -> None:
    """Two classes on the axes of a plane: what TS, LPR and AS are can be read off."""
    method = zero_shot()
    block = method.blocks[0]
    state = (method.kept_weights(block), block.kept)[1]
    assert state is not None
    d = small_backbone().config.joint_width
    axes = torch.eye(d)[: len(NAMES)]
    tilted = axes.clone()
    tilted[0] = torch.nn.functional.normalize(axes[0] + axes[1], dim=0)  # 45 degrees towards class 1
    method.blocks = [replace(block, kept=(state[0], axes))]
    images = torch.nn.functional.normalize(
        axes[[0, 1, 1, 2]] + torch.tensor([0, 0.0, 0.5, 0])[:, None] * axes[0], dim=1
    )
    of = Subject("by hand", method, images)

    def tilt(*_: Any) -> methods.Method:
        other = zero_shot()
        other.blocks = [replace(block, kept=(state[0], tilted))]
        return other

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anprompt.analysis.robustness.reworded", tilt)
        found = measure(of, [0, 1, 1, 2], noise("drop"), MATERIAL, wordings=1, seed=1)
    assert found["text_shift"]["value"] == pytest.approx((1 - 2**-0.5) / len(NAMES))
    assert found["clean_accuracy"] == 100
    assert found["logit_preservation"]["value"] == 0.75  # the third image, between the axes, goes to class 0
    assert found["accuracy_shift"]["value"] == 25
    assert found["accuracy"] == {"value": 75, "interval": None}  # one wording has no spread
    assert [entry["harm"] for entry in found["per_class"]] == [25, 0, 0, 0, 0, 0]


def test_shift_is_exact_for_small_angles() -> None:
    a = torch.tensor([[1.0, 0.0]]).double()
    angle = torch.tensor(1e-7).double()
    b = torch.stack([angle.cos(), angle.sin()])[None]
    assert float(shift(a, b)) == pytest.approx(5e-15, rel=1e-6)
    assert float(shift(a, a)) == 0


def test_harm_is_that_of_one_class_reworded_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    clean, noisy = torch.randn(200, 5, generator=generator), torch.randn(200, 5, generator=generator)
    clean[:20] = clean[:20].round()  # some equal logits
    noisy[:20] = noisy[:20].round()
    truth = torch.randint(5, (200,), generator=generator)
    before = (clean.argmax(dim=1) == truth).double().mean()
    for c, found in enumerate(_harm(clean, noisy, truth)):
        alone = clean.clone()
        alone[:, c] = noisy[:, c]
        assert float(found) == pytest.approx(100 * float(before - (alone.argmax(dim=1) == truth).double().mean()))


def test_per_class_names_the_wording_that_hurts_most(subjects: dict[str, Subject]) -> None:
    of = subjects["template"]
    found = measured(of, noise("mask:0.6"), wordings=4)
    assert [entry["class"] for entry in found["per_class"]] == NAMES
    for entry in found["per_class"]:
        assert entry["class"] in entry["sentences"][0]
        assert "something" in entry["sentences"][0]
        assert entry["instead_of"] == [f"a photo of a {entry['class']}."]
    worst = max(found["per_class"], key=lambda entry: entry["harm"])
    view = reworded(of.method, noise("mask:0.6"), 1 + worst["wording"], MATERIAL)
    assert view.wording(worst["class"]) == (worst["sentences"][0],)


# ---- intervals


def test_intervals_hold_the_mean_and_shrink() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for count in (8, 64, 512):
        values = rng.normal(50, 3, count)
        low, high = interval(values, 1) or (0, 0)
        assert low < values.mean() < high
        assert (low, high) == interval(values, 1)  # seeded
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)
    expected = 2 * 1.96 * 3 / 512**0.5
    assert widths[-1] == pytest.approx(expected, rel=0.2)
    assert interval(np.array([1.0]), 1) is None
    assert interval(np.array([2.0, 2.0]), 1) == (2, 2)


def test_more_wordings_give_a_narrower_expected_accuracy(subjects: dict[str, Subject]) -> None:
    few, many = (
        measured(subjects["template"], noise("shuffle:1"), wordings=n)["accuracy"]["interval"] for n in (4, 60)
    )
    assert many[1] - many[0] < few[1] - few[0]


# ---- what is reworded


def test_every_sentence_that_a_method_reads_is_reworded(subjects: dict[str, Subject]) -> None:
    for name, count in (("template", 1), ("descriptions", 4), ("ensemble", 9), ("anprompt", 2)):
        method = subjects[name].method
        view = reworded(method, noise("mask:1"), 1, MATERIAL)
        before, after = method.wording("green lake"), view.wording("green lake")
        assert len(before) == len(after) == count
        assert all("something" in text and "green lake" in text for text in after)
        assert method.wording("green lake") == before  # the method itself stays
    undescribed = methods.create("anprompt", small_backbone(), NAMES)
    assert undescribed.wording("dog") == ("a photo of a dog.",)


def test_a_reworded_method_equals_one_built_from_these_sentences() -> None:
    """Rewording is no approximation: descriptions written that way from the start give the same logits."""
    texts = bank()
    changed = texts.reworded(lambda name, sentence: f"{sentence} indeed")
    built = methods.create("zero-shot", small_backbone(), NAMES, text="descriptions",
                           texts=DescriptionBank(changed.main, changed.noise))  # fmt: skip
    view = zero_shot("descriptions").with_bank(changed)
    assert torch.equal(class_weights(built), class_weights(view))
    trained = anprompt()
    view = trained.with_bank(changed)
    assert view.blocks[0].trained
    assert torch.equal(view.image_features(batch()["pixels"]), trained.image_features(batch()["pixels"]))
    assert not torch.equal(class_weights(view), class_weights(trained))


def test_sentences_that_noise_makes_too_long_are_cut() -> None:
    long = " ".join(["photo"] * 75)
    tokenizer = small_backbone().tokenizer
    assert tokenizer.count(long) == tokenizer.context
    texts = DescriptionBank({name: [long] for name in NAMES})
    method = methods.create("zero-shot", small_backbone(), NAMES, texts=texts, text="descriptions")
    for what in ("typo:1", "template", "weak"):
        view = reworded(method, noise(what), 1, Material(paraphrases={name: [f"{long} {long}"] for name in NAMES}))
        assert class_weights(view).shape == class_weights(method).shape
        (said,) = view.wording("dog")
        assert tokenizer.count(said) <= tokenizer.context
        assert said.split()


def test_curves_begin_at_the_clean_accuracy(subjects: dict[str, Subject]) -> None:
    of = subjects["template"]
    found = curve(of, LABELS, noise("shuffle"), [0, 0.5, 1], MATERIAL, wordings=2, seed=1)
    assert found["accuracy"][0] == measured(of, noise("identity"))["clean_accuracy"]
    assert len(found["accuracy"]) == 3


def test_pictures_are_read_once_for_all_methods(photo_folder: Path) -> None:
    source = open_data(str(photo_folder))
    opened: list[str] = []
    counting = replace(source, opener=lambda item: (opened.append(item.path), source.opener(item))[1])
    two = [methods.create(name, small_backbone(), source.classes) for name in ("zero-shot", "anprompt", "zero-shot")]
    bad: list[BadImage] = []
    read, features = encode([m.requires_grad_(False) for m in two], counting, source.splits["test"], bad=bad)
    assert sorted(opened) == sorted(item.path for item in read)
    for method, own in zip(two, features, strict=True):
        pixels = method.backbone.preprocess([source.open(item) for item in read])
        assert torch.allclose(own, method.image_features(pixels), atol=1e-5)


def test_weak_noise_needs_class_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    method = zero_shot()

    def block_logits(self: Any, features: Tensor, block: Any) -> Tensor:
        return features @ block.frozen.T

    monkeypatch.setattr(type(method), "block_logits", block_logits, raising=False)
    with pytest.raises(UserError, match="the logits of method 'zero-shot' have none"):
        reworded(method, noise("weak"), 1, MATERIAL)


# ---- the specification of noises


def test_noises_are_parsed() -> None:
    assert parse_noises("weak:0.001, drop,blur:1,paraphrase", 0.4) == [
        Noise("weak", 0.001, "feature"), Noise("drop", 0.4, "text"), Noise("blur", 1, "image"),
        Noise("paraphrase", 0.4, "text"),
    ]  # fmt: skip
    assert parse_noises("weak,drop,paraphrase,blur") == [
        Noise("weak", 0.01, "feature"), Noise("drop", 0.3, "text"), Noise("paraphrase", 1, "text"),
        Noise("blur", 0.3, "image"),
    ]  # fmt: skip
    with pytest.raises(UserError) as caught:
        parse_noises("shufle,drop:2,mask:x,weak:nan,")
    message = str(caught.value)
    assert "'shufle' is none. Did you mean 'shuffle'?" in message
    for entry in ("drop:2", "mask:x", "weak:nan"):
        assert f"the strength of '{entry}' must be a number from 0 to 1" in message


# ---- on real photos


@pytest.mark.real
@pytest.mark.parametrize(("folder", "main", "noise_file"), [
    ("eurosat", "eurosat_prompt", "EuroSAT"),
    pytest.param("caltech-101", "caltech_prompt", "Caltech101", marks=pytest.mark.slow),
])  # fmt: skip
def test_weak_noise_is_a_hundred_times_weaker(
    real: Path, folder: str, main: str, noise_file: str, cli: Cli, tmp_path: Path
) -> None:
    """Figure 4: at α of 0.001 to 0.01, TS is at least 100 times smaller than that of drop, mask and shuffle."""
    found = [load_bank(real / "texts" / part) for part in (f"coprompt/{main}.json", f"hpt/{noise_file}.json")]
    parts = [{name: own[:1] for name, own in kind.items()} for kind in (found[0].main, found[1].noise)]
    write_bank(tmp_path / "texts.json", DescriptionBank(*parts))
    line = "--samples 1 --wordings 1 --noises weak:0.001,weak:0.01,drop,mask,shuffle --json"
    data, model = real / "coop-data" / folder, real / "clip-standin"
    document = cli("robustness", data, "--backbone", model, "--texts", tmp_path / "texts.json", *line.split()).document
    rows = [row for row in document["rows"] if row["method"] == "zero-shot, descriptions"]
    weaker, weak, *strong = (row["text_shift"]["value"] for row in rows)
    assert 0 < weaker < weak < min(strong) / 100


@pytest.mark.parametrize("name", [method.name for method in methods.available()])
def test_noise_reaches_every_sentence_that_a_method_predicts_from(name: str) -> None:
    """What a method reads it says itself, in ``wording``: sentences, bare names behind learned words, or nothing."""
    backbone = small_backbone()
    method = perturb(methods.create(name, backbone, NAMES, texts=bank(), photos=FewPhotos(backbone)))
    of = Subject(name, method.requires_grad_(False), method.image_features(batch(2)["pixels"]))
    read = {words for own in NAMES for words in method.wording(own)}
    sentences = read - set(NAMES)
    for what, change_name, reached in (("drop:1", False, sentences), ("typo:1", True, read), ("identity", True, ())):
        view = reworded(method, noise(what), 1, MATERIAL, change_name)
        moved = shift(class_weights(method), class_weights(view))
        assert len(moved) == len(NAMES)
        assert bool((moved > 0).any()) is bool(reached), what
        assert torch.equal(of.logits(view), of.logits(method)) is not bool(reached), what
        assert ({words for own in NAMES for words in view.wording(own)} != read) is bool(reached), what


def test_what_stands_in_the_places_of_prompts_is_never_reworded() -> None:
    texts = DescriptionBank().reworded(lambda name, sentence: f"<{sentence}>", lambda name, own: f"[{own}]")
    assert worded(texts, "X X X {}.", 3, "cat") == "[cat]."
    assert worded(texts, "a photo of a {}.", 2, "cat") == "<of a cat.>"
    assert worded(DescriptionBank(), "a photo of a {}.", 2, "cat") == "of a cat."
    ids = prompted(small_backbone(), texts, "a photo of a {}.", 2, ["cat"]).ids
    assert torch.equal(ids[0, :3], small_backbone().tokenizer(["a photo"])[0, :3])
