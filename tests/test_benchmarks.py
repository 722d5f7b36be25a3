"""The measurements themselves: the plain side computes the same thing, operations are counted right, every script runs.

Numbers are not judged here; machines that run tests are busy.
"""

from __future__ import annotations

import importlib
import json
import pickle
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from anprompt import methods
from anprompt.clip import ImageTransform
from anprompt.errors import UserError
from benchmarks import __main__ as bench
from benchmarks import common, decode, evaluate, flops, machine, models, plot, step, targets
from benchmarks.plain import PlainANPrompt, PlainClip
from helpers_clip import random_backbone
from helpers_methods import NAMES, bank, batch, perturb

ROOT = Path(__file__).parents[1]
SIZES: dict[str, dict[str, Any]] = {
    "12 + 12 blocks": {},
    "8 + 9 blocks, GELU": {"vision_depth": 8, "text_depth": 9, "activation": "gelu", "image_size": 24, "context": 40},
}


def relative(ours: Tensor, theirs: Tensor) -> float:
    size = theirs.abs().max()
    assert size > 0
    return float((ours - theirs).abs().max() / size)


def gradient(method: methods.Method, total: Tensor) -> Tensor:
    method.zero_grad()
    total.backward()
    return torch.cat([p.grad.flatten() for p in method.parameters() if p.grad is not None])


# ---- the plain side ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_the_plain_step_computes_the_methods_losses_and_gradients(sizes: dict[str, Any]) -> None:
    backbone = random_backbone(seed=7, **sizes)
    method = perturb(methods.create("anprompt", backbone, NAMES, texts=bank(), sim_weight=1.3))
    data = batch(3, side=backbone.config.image_size)
    ours, theirs = method.losses(data), PlainANPrompt(method, PlainClip(backbone)).losses(data)
    assert set(ours) == set(theirs)
    for term in theirs:
        assert relative(ours[term].detach(), theirs[term].detach()) < 1e-4, term
    mine = gradient(method, ours["total"])
    assert len(mine) == sum(p.numel() for p in method.parameters())
    assert relative(mine, gradient(method, theirs["total"])) < 1e-4


def test_the_plain_step_runs_in_bf16() -> None:
    backbone = random_backbone(seed=7)
    method = perturb(methods.create("anprompt", backbone, NAMES, texts=bank()))
    clip = PlainClip(backbone, torch.bfloat16)
    assert {p.dtype for p in clip.parameters()} == {torch.bfloat16}
    half, single = PlainANPrompt(method, clip).losses(batch()), method.losses(batch())
    assert half["total"].dtype == torch.float32
    assert 0 < relative(half["total"].detach(), single["total"].detach()) < 0.1


def test_the_plain_step_is_refused_for_what_it_does_not_compute() -> None:
    backbone = random_backbone(seed=7)
    for other in (
        methods.create("anprompt", backbone, NAMES, texts=bank(), preset="snapshot"),
        methods.create("zero-shot", backbone, NAMES),
    ):
        with pytest.raises(UserError, match="preset 'paper'"):
            PlainANPrompt(other, PlainClip(backbone))


# ---- counted operations --------------------------------------------------------------------------------------------


def test_operations_of_the_plain_step_are_those_of_the_arithmetic() -> None:
    backbone = random_backbone(seed=7, vision_width=64, text_width=48, image_size=64)
    method = perturb(methods.create("anprompt", backbone, NAMES, texts=bank()))
    plain, data = PlainANPrompt(method, PlainClip(backbone)), batch(4, side=64)
    counted = flops.count(lambda: plain.losses(data)["total"].backward())
    expected = flops.plain_step(backbone.config, len(NAMES), 4)
    assert counted == pytest.approx(expected, rel=0.01)  # the rest: prompts' maps, projections, logits
    assert flops.count(lambda: method.losses(data)["total"].backward()) < 0.9 * counted


def test_operations_inside_custom_functions_are_counted() -> None:
    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
            ctx.save_for_backward(w)
            return torch.mm(x, w, out=torch.empty(len(x), w.shape[1]))

        @staticmethod
        def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
            return grads[0] @ ctx.saved_tensors[0].T, None

    x, w = torch.randn(3, 4, requires_grad=True), torch.randn(4, 5)
    assert flops.count(lambda: Product.apply(x, w).sum().backward()) == 2 * 2 * 3 * 4 * 5


@pytest.mark.skipif(not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="PyTorch was built without oneDNN")
def test_operations_of_onednn_are_counted() -> None:
    product = torch.ops.mkldnn._linear_pointwise
    x, w, b = torch.randn(3, 4), torch.randn(5, 4), torch.randn(5)
    with torch.no_grad():
        assert flops.count(lambda: product(x, w, b, "none", [], "")) == 2 * 3 * 4 * 5
        assert flops.count(lambda: product(x, torch.randn(3, 5), w, b, "add")) == 2 * 3 * 4 * 5


def test_a_product_without_formula_is_not_overlooked() -> None:
    with pytest.raises(RuntimeError, match=r"aten\.dot"):
        flops.count(lambda: torch.dot(torch.ones(3), torch.ones(3)))


# ---- what is measured ----------------------------------------------------------------------------------------------


def test_class_names_are_different_and_as_uneven_as_real_ones() -> None:
    backbone = models.build_backbone("miniature")
    names = models.class_names(backbone, 1000, seed=3)
    lengths = models.own_tokens(backbone, names)
    assert len(set(names)) == 1000
    assert sum(lengths) / 1000 == pytest.approx(4.5, abs=0.05)
    assert (min(lengths), max(lengths)) == (3, 8)
    assert models.class_names(backbone, 5, seed=3) != models.class_names(backbone, 5, seed=4)


def test_transformers_twin_has_the_same_features() -> None:
    backbone = models.build_backbone("miniature")
    pixels = models.random_batch(backbone, 2, 3)["pixels"]
    with torch.no_grad():
        theirs = evaluate.twin_features(models.transformers_twin(backbone), pixels)
    assert evaluate.agree(backbone.encode_image(pixels), theirs) < 1e-5


def test_the_yardstick_of_decoding_is_clips_pipeline(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    decode.draw_photo(path, 300, 200, decode.np.random.default_rng(0))
    ours = ImageTransform(64, 64).pixels_uint8(path).permute(1, 2, 0).numpy().astype(int)
    assert abs(ours - decode.with_pillow(path, 64)).max() <= 3
    assert path.stat().st_size > 5000  # not a flat picture, which would decode in no time


# ---- timing and memory ---------------------------------------------------------------------------------------------


def test_sides_alternate_and_warm_up_is_left_out() -> None:
    calls: list[str] = []
    sides = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    seconds = common.alternate(sides, 2, "cpu", warmup=1)
    assert calls == ["a", "b"] * 3
    assert [len(times) for times in seconds.values()] == [2, 2]
    slept = common.alternate({"a": lambda: time.sleep(0.2)}, 1, "cpu", clock="cpu")
    assert slept["a"][0] < 0.1, "waiting is no computing"
    assert common.ratio({"a": [4.0, 9.0, 2.0], "b": [2.0, 3.0, 2.0]}, "a", "b") == {"median": 2, "low": 1, "high": 3}


def hold(megabytes: int) -> dict[str, Any]:
    before = common.peak_memory()
    torch.ones(megabytes, 2**18)  # fp32: a megabyte a row
    return {"grown": (common.peak_memory() - before) / 2**20}


def too_much() -> dict[str, Any]:
    return {"held": len(torch.ones(2**45))}


def test_memory_is_that_of_the_process_alone_and_limited() -> None:
    mine = torch.ones(200, 2**18)  # must not show in the other process
    assert common.in_fresh_process(hold, 300)["grown"] == pytest.approx(300, rel=0.1)
    assert len(mine) == 200
    assert common.in_fresh_process(common.guarded, too_much) == {"failed": "ran out of memory"}


def test_a_plain_step_that_cannot_run_is_refused_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    gib = common.GIB
    small = {"seconds": {"base": 1, "per_class": 0.1, "per_image": 1}, "bytes": {"base": gib, "per_class": gib / 100,
             "per_image": gib / 10}}  # fmt: skip
    monkeypatch.setattr(common, "free_memory", lambda device: 12 * gib)
    assert step.refusal(small, 500, 4, 100, 2 * gib, "cpu") == ""
    assert "about 13 GiB needed, 12 GiB free" in step.refusal(small, 1000, 4, 200, 2 * gib, "cpu")
    assert "about 55 s a step" in step.refusal(small, 500, 4, 40, 2 * gib, "cpu")


def test_the_lines_of_the_pilot_are_exact_for_what_is_linear() -> None:
    measured = [{"seconds": 3 + 0.5 * c + 2 * b} for c, b in step.PILOT]
    assert step.predict(step._plane(measured, "seconds"), 1000, 32) == pytest.approx(3 + 500 + 64)


# ---- the scripts ---------------------------------------------------------------------------------------------------


def in_this_process(function: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    """Instead of a fresh process for each measurement, which is slow to start; what goes there is pickled."""
    function, args = pickle.loads(pickle.dumps((function, args)))
    return args[0](*args[1:]) if function is common.guarded else function(*args)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every script's smallest form, on the miniature."""
    folder = tmp_path_factory.mktemp("results")
    photos = folder / "photos" / "a"
    photos.mkdir(parents=True)
    for i in range(2):
        decode.draw_photo(photos / f"{i}.jpg", 90, 60, decode.np.random.default_rng(i))
    files = {name: folder / f"{name}.json" for name in ("step", "evaluate", "decode")}
    small = ["--quick", "--rounds", "1", "--backbone", "miniature", "--precisions", "fp32,bf16"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "SHAPES", ((64, 64, 64), (128, 64, 64)))
        patch.setattr(common, "in_fresh_process", in_this_process)
        step.main([*small, "--classes", "5", "--images", "2", "--out", str(files["step"])])
        evaluate.main([*small, "--batches", "2", "--classes", "5", "--out", str(files["evaluate"])])
        patch.setattr(decode, "SIZES", {"drawn 64x48": (64, 48)})
        decode.main(["--quick", "--count", "1", "--files", str(photos.parent), "--out", str(files["decode"])])
    return files


def read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return document


@pytest.mark.slow
def test_step_writes_times_ratios_operations_and_memory(results: dict[str, Path]) -> None:
    document = read(results["step"])
    (entry,) = document["entries"]
    assert entry["plain"] == "run"
    assert {side: len(times) for side, times in entry["seconds"].items()} == {"plain": 1, "fp32": 1, "bf16": 1}
    for side in ("fp32", "bf16"):
        assert entry["ratio"][side]["median"] == entry["seconds"]["plain"][0] / entry["seconds"][side][0]
        assert entry["gflops_median"][side] * entry["seconds"][side][0] * 1e9 == pytest.approx(entry["flop"][side])
        assert entry["memory"][side]["peak"] > 50e6
        assert document["peak"][side] > 0


@pytest.mark.slow
def test_evaluate_times_all_sides_on_the_same_features(results: dict[str, Path]) -> None:
    document = read(results["evaluate"])
    images = document["entries"][0]
    kinds = {f"{kind} {p}" for kind in ("clip", "adapter", "transformers") for p in ("fp32", "bf16")}
    assert set(images["seconds"]) == kinds
    assert images["ratio"]["transformers fp32 / ours fp32"]["median"] > 0
    assert document["differences"]["fp32"] < 1e-5
    assert {e["precision"] for e in document["entries"] if e["what"] == "text"} == {"fp32", "bf16"}


@pytest.mark.slow
def test_decode_measures_given_files_and_drawn_ones(results: dict[str, Path]) -> None:
    entries = {entry["group"]: entry for entry in read(results["decode"])["entries"]}
    assert {name: entry["files"] for name, entry in entries.items()} == {"photos": 2, "drawn 64x48": 1}
    assert all(entry["largest_difference"] <= 3 for entry in entries.values())


@pytest.mark.slow
def test_results_name_no_place_on_the_machine(results: dict[str, Path]) -> None:
    for path in results.values():
        text = path.read_text("utf-8")
        assert str(path.parent) not in text
        assert str(Path.home()) not in text
        assert "processor" in read(path)["machine"]


@pytest.mark.slow
def test_resuming_keeps_what_was_measured(results: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    before = read(results["decode"])
    arguments = ["--quick", "--count", "1", "--files", str(results["decode"].parent / "photos"), "--resume"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "SIZES", {"drawn 64x48": (64, 48)})
        patch.setattr(decode, "compare", lambda *_: pytest.fail("measured again"))
        decode.main([*arguments, "--out", str(results["decode"])])
        assert read(results["decode"])["entries"] == before["entries"]
        with pytest.raises(UserError, match="other settings"):
            decode.main([*arguments, "--size", "100", "--out", str(results["decode"])])
    assert "drawn 64x48" in capsys.readouterr().out


@pytest.mark.slow
def test_plot_draws_every_panel(results: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "speed.png"
    plot.main([*map(str, results.values()), "--out", str(out)])
    with Image.open(out) as image:
        assert min(image.size) > 500
    kinds = [kind for kind, _ in plot.pieces(common.load(list(results.values())))]
    assert kinds == ["step", "memory", "evaluate", "decode"]


def document(kind: str, entries: list[dict[str, Any]], **settings: Any) -> dict[str, Any]:
    shared = {"device": "cpu", "clock": "wall", "backbone": models.RANDOM, "plain": True, "plain_precision": "fp32"}
    return {"benchmark": kind, "created": "2026-01-01", "machine": machine.describe(), "entries": entries,
            "settings": {**shared, "precisions": ["fp32"], **settings}, "peak": {"fp32": 100.0}}  # fmt: skip


def test_targets_compare_medians_and_leave_out_what_was_not_measured(tmp_path: Path) -> None:
    def ratio(median: float) -> dict[str, float]:
        return {"median": median, "low": median - 0.1, "high": median + 0.1}

    measured = [
        {"classes": 50, "images": 4, "plain": "run", "ratio": {"fp32": ratio(2.9)}},
        {"classes": 50, "images": 32, "plain": "run", "ratio": {"fp32": ratio(1.6)}, "gflops_median": {"fp32": 71.0}},
        {"classes": 500, "images": 4, "plain": "not run: too slow", "ratio": {}},
        {"classes": 1000, "images": 32, "memory": {"fp32": {"peak": 9 * common.GIB, "estimate": 8 * common.GIB}}},
    ]
    evaluation = [{"batch": 64, "what": "images", "ratio": {"adapter / clip fp32": ratio(1.2)}}]
    decoding = [{"group": "photos", "ratio": ratio(2.0)}]
    documents = [document("step", measured), document("evaluate", evaluation), document("decode", decoding)]
    assert [row.met for row in targets.rows(documents)] == [False, True, True, None, False, True, False, True]
    assert targets.rows([document("step", measured, backbone="another")]) == []

    page = tmp_path / "page.md"
    shutil.copy(ROOT / "docs" / "speed.md", page)
    for _ in range(2):  # the second time replaces the first table
        targets.insert(page, targets.markdown(documents))
    text = page.read_text("utf-8")
    assert text.count("| decode, resize, crop, photos: Pillow / ours | 2.00 (1.90–2.10) | ≥ 1.6 | yes |") == 1
    page.write_text("no marks", "utf-8")
    with pytest.raises(UserError, match="marks"):
        targets.insert(page, "")


@pytest.mark.parametrize("bf16", ["avx512_bf16", "none known"])
def test_all_in_one_calls_the_scripts_with_what_they_take(bf16: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_bf16_products", lambda: bf16)
    pieces = [*bench.subset(), *bench.everything(["some/folder"], "cpu")]
    for run, name, arguments in pieces:
        script = importlib.import_module(run.__module__)
        assert name.startswith(("step", "memory", "evaluate", "decode"))
        script.arguments().parse_args([*arguments, "--out", f"{name}.json"])
    asked = [step.arguments().parse_args(a) for run, _, a in bench.subset() if run is step.main]
    assert {a.what for a in asked if a.plain} == {"time"}
    assert [a.precisions for a in asked if a.what == "memory"] == [["fp32"] if bf16 == "none known" else ["bf16"]]


def test_wrong_files_and_devices_are_refused_in_a_sentence(tmp_path: Path) -> None:
    wrong = tmp_path / "other.json"
    wrong.write_text("[]", "utf-8")
    with pytest.raises(UserError, match="not the result of a measurement"):
        common.load([wrong])
    with pytest.raises(UserError, match="no pictures"):
        decode.main(["--files", str(tmp_path), "--out", str(tmp_path / "x.json")])
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no CUDA device"):
            decode.main(["--device", "cuda", "--out", str(tmp_path / "x.json")])
