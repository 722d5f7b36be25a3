"""The interface of every registered method, options and their errors, and a new method in a few lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt import methods
from anprompt.clip import Backbone, Sentences
from anprompt.clip.plan import PromptPlan
from anprompt.errors import UserError
from anprompt.methods import ClassBlock, Method, Preset
from anprompt.methods.base import REGISTRY
from anprompt.methods.count import learnable_numbers
from anprompt.methods.options import option
from helpers_methods import NAMES, NEW_NAMES, FewPhotos, bank, batch, small_backbone

DATA = batch(extras=True)
PIXELS = DATA["pixels"]
EVERY = [(m.name, preset) for m in methods.available() for preset in m.presets]
NOTHING_DRAWN = {"coop", "kgcoop", "prograd"}  # they start from words
NOTHING_DRAWN |= {"linear-probe", "tip-adapter"}  # they start from zeros, from texts or from the photos
every_method = pytest.mark.parametrize(("name", "preset"), EVERY, ids=[f"{n}-{p}" for n, p in EVERY])


def make(name: str, preset: str | None = None, **settings: Any) -> Method:
    backbone = small_backbone()
    return methods.create(name, backbone, NAMES, texts=bank(), photos=FewPhotos(backbone), preset=preset, **settings)


def train(method: Method, steps: int = 3) -> None:
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
    for step in range(steps):
        optimizer.zero_grad()
        method.backward(method.losses(batch(seed=step, extras=True)))
        optimizer.step()


@every_method
def test_losses_and_logits(name: str, preset: str) -> None:
    method = make(name, preset)
    assert method.class_names == NAMES
    losses = method.losses(DATA)
    assert losses["total"].shape == ()
    assert all(value.isfinite() for value in losses.values())
    assert losses["total"].requires_grad is method.trainable
    logits = method.logits(PIXELS)
    assert logits.shape == (4, len(NAMES))
    assert logits.dtype == torch.float32
    assert not logits.requires_grad
    assert logits.isfinite().all()
    assert isinstance(method.decision(), str)


@every_method
def test_training_moves_the_learnables_and_never_the_backbone(name: str, preset: str) -> None:
    method, backbone = make(name, preset), small_backbone()
    weights = {key: tensor.clone() for key, tensor in backbone.state_dict().items()}
    own = {id(t) for t in backbone.state_dict(keep_vars=True).values()}
    assert own.isdisjoint(id(t) for t in method.state_dict(keep_vars=True).values())
    assert own.isdisjoint(id(p) for p in method.parameters())
    assert not any(key.startswith("backbone") for key in method.state_dict())
    counts = {"classes": len(NAMES), "photos": 2 * len(NAMES)}
    assert sum(p.numel() for p in method.parameters()) == learnable_numbers(name, backbone.config, preset, **counts)
    if not method.trainable:
        return
    start = {key: p.detach().clone() for key, p in method.named_parameters()}
    train(method)
    unmoved = [key for key, p in method.named_parameters() if torch.equal(p, start[key])]
    assert not unmoved, "learnables without any gradient"
    assert not any(p.requires_grad or p.grad is not None for p in backbone.parameters())
    for key, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, weights[key]), key


@every_method
def test_kept_class_weights_are_dropped_by_an_optimiser_step(name: str, preset: str) -> None:
    method = make(name, preset)
    before = method.logits(PIXELS)
    assert torch.equal(method.logits(PIXELS), before)
    if not method.trainable:
        return
    train(method, steps=1)
    after = method.logits(PIXELS)
    assert not torch.allclose(after, before)
    fresh = make(name, preset)
    fresh.load_state_dict(method.state_dict())
    assert torch.equal(after, fresh.logits(PIXELS))


@every_method
def test_seeds(name: str, preset: str) -> None:
    small_backbone()  # is made once, at first use, and draws
    torch.manual_seed(7)
    state = torch.get_rng_state()
    one, same, other = (make(name, preset, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state), "create changed torch's global generator"
    torch.manual_seed(8)
    later = make(name, preset, seed=1).state_dict()
    for key, tensor in one.items():
        assert torch.equal(tensor, same[key])
        assert torch.equal(tensor, later[key])
    drawn = any(not torch.equal(tensor, other[key]) for key, tensor in one.items())
    assert drawn or not one or name in NOTHING_DRAWN


@every_method
def test_view_over_other_classes(name: str, preset: str) -> None:
    method = make(name, preset)
    if not method.supports_new_classes:
        pytest.skip(f"{name} only knows its training classes")  # see the test below
    before = method.logits(PIXELS)
    view = method.with_classes([NEW_NAMES[0], *NAMES[:2]], bank())
    assert type(view) is type(method)
    assert view.class_names == [NEW_NAMES[0], *NAMES[:2]]
    assert view.logits(PIXELS).shape == (4, 3)
    assert method.class_names == NAMES
    assert torch.equal(method.logits(PIXELS), before)
    assert all(a is b for a, b in zip(view.parameters(), method.parameters(), strict=True))
    if method.trainable:
        frozen = view.logits(PIXELS)
        train(method, steps=1)
        assert not torch.allclose(view.logits(PIXELS), frozen), "the view did not follow its parameters"


@every_method
def test_added_classes_leave_the_old_logits_exactly(name: str, preset: str) -> None:
    method = make(name, preset)
    if not method.supports_new_classes:
        pytest.skip(f"{name} only knows its training classes")
    before = method.logits(PIXELS)
    method.add_classes(NEW_NAMES[:1], bank())
    method.add_classes(NEW_NAMES[1:], bank())
    after = method.logits(PIXELS)
    assert method.class_names == [*NAMES, *NEW_NAMES]
    assert torch.equal(after[:, : len(NAMES)], before)
    assert after.shape == (4, len(NAMES) + len(NEW_NAMES))
    assert (after[:, len(NAMES) :].std(dim=0) > 0).all()


@every_method
def test_a_method_without_new_classes_says_why_and_keeps_some_of_its_own(name: str, preset: str) -> None:
    method = make(name, preset)
    if method.supports_new_classes:
        assert not method.only_known
        return
    assert method.only_known
    reason = f"only knows the classes that it was trained on, because {method.only_known}: 'forest' and 1 more"
    for refused in (method.with_classes, method.add_classes):
        with pytest.raises(UserError, match=reason):
            refused([NAMES[0], *NEW_NAMES[:2]], bank())
    before = method.logits(PIXELS)
    rows = [3, 0, 4]
    view = method.with_classes([NAMES[row] for row in rows])
    assert torch.allclose(view.logits(PIXELS), before[:, rows], atol=1e-5)
    assert torch.equal(method.logits(PIXELS), before)
    rebuilt = methods.build(name, small_backbone(), preset=preset)
    rebuilt.load_state_dict(view.state_dict())
    rebuilt.blocks = [rebuilt.make_block(view.class_names, trained=True)]
    assert torch.equal(rebuilt.logits(PIXELS), view.logits(PIXELS))


@every_method
def test_used_texts_rebuild_the_classes(name: str, preset: str) -> None:
    """What an adapter saves: tensors and the sentences that were used."""
    method = make(name, preset)
    rebuilt = methods.build(name, small_backbone(), preset=preset)
    rebuilt.load_state_dict(method.state_dict())
    rebuilt.bank = method.used_texts(NAMES)
    rebuilt.blocks = [rebuilt.make_block(NAMES, trained=True)]
    assert torch.equal(rebuilt.logits(PIXELS), method.logits(PIXELS))


@every_method
def test_frozen_text_features_are_computed_once_and_only_where_they_are_read(name: str, preset: str) -> None:
    never = {"coop", "cocoop", "maple", "dapt", "coprompt", "lora", "textrefiner", "lweib", "tac", "surpl", "hicropl"}
    method = make(name, preset)
    if method.trainable:
        method.losses(DATA)
    method.logits(PIXELS)
    (block,) = method.blocks
    assert name not in never or "frozen" not in vars(block)
    expected = F.normalize(Sentences(method.backbone, [f"a photo of a {each}." for each in NAMES]).features(), dim=-1)
    assert torch.equal(block.frozen, expected)
    assert block.frozen is block.frozen
    assert not block.frozen.requires_grad


def test_frozen_text_features_leave_what_training_keeps() -> None:
    """The blocks below the first prompt run once, although the frozen pass begins further below."""
    (block,) = make("anprompt").blocks
    assert block.sentences is block.plain is not None
    block.sentences.features(PromptPlan.deep({6: torch.zeros(2, 24)}))
    kept = block.sentences._trunk
    assert block.frozen.shape == (len(NAMES), 16)
    assert block.sentences._trunk is kept is not None


def test_declarations() -> None:
    years = [m.year for m in methods.available()]
    assert years == sorted(years)
    for method in methods.available():
        assert methods.find(method.name) is method
        assert method.paper
        assert method.link.startswith("https://")
        assert all(field.metadata["help"] for field in fields(method.Options))
        assert all(preset.about for preset in method.presets.values())


# ---- zero-shot


def test_zero_shot_texts() -> None:
    backbone = small_backbone()
    image, scale = backbone.encode_image(PIXELS), backbone.logit_scale
    template = backbone.encode_text([f"a photo of a {name}." for name in NAMES])
    torch.testing.assert_close(make("zero-shot").logits(PIXELS), scale * image @ template.T, rtol=1e-5, atol=1e-3)
    described = torch.stack([backbone.encode_text(bank().main[name]).mean(dim=0) for name in NAMES])
    expected = scale * image @ F.normalize(described, dim=-1).T
    torch.testing.assert_close(make("zero-shot", "descriptions").logits(PIXELS), expected, rtol=1e-5, atol=1e-3)
    results = [make("zero-shot", preset).logits(PIXELS) for preset in ("paper", "ensemble", "descriptions")]
    assert not any(torch.allclose(results[i], results[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    other = make("zero-shot", template="a sketch of the {}").logits(PIXELS)
    assert not torch.allclose(other, results[0])


# ---- wrong names and values


def test_unknown_names_come_with_the_nearest_valid_one() -> None:
    with pytest.raises(UserError, match=r"method 'anpromt'\. Did you mean 'anprompt'\?.*zero-shot"):
        make("anpromt")
    with pytest.raises(UserError, match=r"preset .*'papr'\. Did you mean 'paper'\?.*snapshot"):
        make("anprompt", "papr")
    with pytest.raises(UserError, match=r"unknown option 'epsilom'\. Did you mean 'epsilon'\?"):
        make("anprompt", epsilom=0.1)
    with pytest.raises(UserError, match=r"'distance' must be one of kl, l1, mse, cosine\. Did you mean 'cosine'\?"):
        make("anprompt", distance="cosin")
    with pytest.raises(UserError, match=r"exactly once"):
        make("anprompt", template="a photo")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("theta", 1.2, "'theta' must be at least 0 and at most 1"),
        ("theta", -0.1, "'theta' must be at least 0 and at most 1"),
        ("alpha", -1, "'alpha' must be at least 0"),
        ("theta", float("nan"), "'theta' must be a finite number"),
        ("epsilon", "inf", "'epsilon' must be a finite number"),
        ("alpha", "much", "'alpha' must be a number"),
        ("alpha", True, "'alpha' must be a finite number"),
        ("prompt_length", 0, "'prompt_length' must be at least 1 and at most 64"),
        ("prompt_length", 2.5, "'prompt_length' must be a whole number"),
        ("prompt_length", float("inf"), "'prompt_length' must be a whole number"),
        ("prompt_length", True, "'prompt_length' must be a whole number"),
        ("wa_loss", "perhaps", "'wa_loss' must be true or false"),
        ("wa_loss", 1, "'wa_loss' must be true or false"),
    ],
)
def test_values_out_of_range_or_of_another_type(name: str, value: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        methods.resolve_options("anprompt", options={name: value})


def test_several_mistakes_are_reported_at_once() -> None:
    with pytest.raises(UserError) as caught:
        methods.resolve_options(
            "anprompt", options={"tetha": 0.5, "alpha": -1, "gamma": "sdt", "wa-loss": "no", "mix": 1}
        )
    message = str(caught.value)
    assert "method 'anprompt'" in message
    for part in ("Did you mean 'theta'?", "'alpha' must be", "Did you mean 'std'?", "'wa_loss' must be true or false"):
        assert part in message
    assert "mix" not in message


def test_options_are_resolved_from_default_preset_and_user() -> None:
    plain, snapshot = (methods.resolve_options("anprompt", preset) for preset in (None, "snapshot"))
    assert plain == methods.resolve_options("anprompt", "paper")
    assert (plain["theta_in_loss"], snapshot["theta_in_loss"]) == (False, True)
    given = {"theta-in-loss": "false", "prompt-length": "3", "alpha": "0.5", "mix": 1}
    own = methods.resolve_options("anprompt", "snapshot", given)
    assert (own["theta_in_loss"], own["prompt_length"], own["alpha"], own["mix"]) == (False, 3, 0.5, 1.0)
    assert {type(own[key]) for key in ("alpha", "mix")} == {float}
    assert {key: own[key] for key in own if key.replace("_", "-") not in given} == {
        key: snapshot[key] for key in snapshot if key.replace("_", "-") not in given
    }
    assert methods.resolve_options("anprompt", None, own) == own


# ---- a method in one file


@dataclass
class ShiftOptions:
    """Options of the example."""

    start: float = option(0.0, "start of the shift", low=-1, high=1)


@pytest.fixture
def example() -> Iterator[str]:
    """An example of a new method: one learnable shift of all frozen class features."""

    class Shift(Method):
        """f_t = f_t^clip + s."""

        name = "example-shift"
        paper = "An example"
        link = "https://example.org"
        year = 2024
        Options = ShiftOptions
        presets = {"paper": Preset("as it is")}  # noqa: RUF012 - ClassVar in the base

        def __init__(self, backbone: Backbone, options: ShiftOptions, **common: Any) -> None:
            super().__init__(backbone, options, **common)
            self.shift = nn.Parameter(torch.full((backbone.config.joint_width,), options.start))  # (d,)

        def image_features(self, pixels: Tensor) -> Tensor:
            return self.backbone.encode_image(pixels)

        def class_weights(self, block: ClassBlock) -> Tensor:
            return F.normalize(block.frozen + self.shift, dim=-1)  # (C, d)

        def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
            weights = self.class_weights(self.blocks[0])
            logits = self.backbone.logit_scale * self.image_features(batch["pixels"]) @ weights.T  # (B, C)
            loss = F.cross_entropy(logits, batch["labels"])
            return {"total": loss, "cross_entropy": loss}

    yield Shift.name
    del REGISTRY[Shift.name]


def test_a_new_method_registers_itself_and_works(example: str) -> None:
    assert example in [m.name for m in methods.available()]
    zero_shot = make("zero-shot").logits(PIXELS)
    torch.testing.assert_close(make(example).logits(PIXELS), zero_shot, rtol=1e-5, atol=1e-3)
    assert learnable_numbers(example) == 512
    with pytest.raises(UserError, match="'start' must be at least -1 and at most 1"):
        make(example, start=2)
    with pytest.raises(UserError, match="has no smaller form"):
        make(example).bake()

    method = make(example)
    first = method.losses(DATA)["total"].item()
    optimizer = torch.optim.Adam(method.parameters(), lr=0.02)
    for _ in range(20):
        optimizer.zero_grad()
        method.losses(DATA)["total"].backward()
        optimizer.step()
    assert method.losses(DATA)["total"].item() < first
    method.add_classes(NEW_NAMES, bank())
    assert method.logits(PIXELS).shape == (4, len(NAMES) + len(NEW_NAMES))
    assert list(method.state_dict()) == ["shift"]
