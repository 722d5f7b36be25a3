"""Interrupted runs: resumed ones end with exactly the tensors of an uninterrupted run."""

from __future__ import annotations

import json
import random
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from anprompt.clip import Backbone
from anprompt.errors import UserError
from anprompt.files import sha256_file
from anprompt.training import Interrupted, TrainingResult, checkpoint, loop, train
from anprompt.training.checkpoint import FILE
from anprompt.training.log import LOG
from helpers_clip import random_backbone
from helpers_fit import Vector, copies, log_rows, new_method, pictures, positions, same, short_recipe, state_of

STEPS = 6  # three epochs of two steps: 10 pictures in batches of 4
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "paper-adam": ({"preset": "paper"}, {"optimizer": "adam"}),
    "snapshot-adamw": ({"preset": "snapshot"}, {"optimizer": "adamw", "weight_decay": 0.01}),
    "sgd": ({"layers": "last-2"}, {"optimizer": "sgd"}),
}


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return random_backbone()


class Run:
    """One configuration that can be run whole, or stopped after some steps and resumed."""

    def __init__(self, backbone: Backbone, variant: str) -> None:
        self.backbone = backbone
        self.options, self.recipe = VARIANTS[variant]

    def go(
        self, folder: Path, *, stop_after: int = 0, number: int = signal.SIGINT, resume: bool = False
    ) -> tuple[dict[str, Tensor], TrainingResult | None]:
        """Run in a fresh method, as a new process would; return its tensors."""
        method = new_method(backbone=self.backbone, **self.options)
        done = 0

        def report(*_: Any) -> None:
            nonlocal done
            done += 1
            if done == stop_after:
                signal.raise_signal(number)

        arguments: dict[str, Any] = {"seed": 1, "folder": folder, "resume": resume, "fingerprint": {"name": "test"}}
        if stop_after:
            with pytest.raises(Interrupted) as interrupted:
                train(method, pictures(10), short_recipe(**self.recipe), report=report, **arguments)
            assert interrupted.value.code == 128 + number
            return copies(method), None
        result = train(method, pictures(10), short_recipe(**self.recipe), report=report, **arguments)
        return copies(method), result


@pytest.fixture(scope="module", params=list(VARIANTS))
def whole(request: pytest.FixtureRequest, backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A configuration and the tensors and the final state of its uninterrupted run."""
    run = Run(backbone, request.param)
    folder = tmp_path_factory.mktemp("whole")
    tensors, _ = run.go(folder)
    return run, tensors, state_of(folder)


ALL_STEPS = [(epoch, step) for epoch in (1, 2, 3) for step in (1, 2)]


# ---- in this process -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop_after", range(1, STEPS + 1))
def test_stopped_anywhere_and_resumed_equals_the_uninterrupted_run(whole: Any, stop_after: int, tmp_path: Path) -> None:
    run, tensors, final = whole
    run.go(tmp_path, stop_after=stop_after, number=random.Random(stop_after).choice([signal.SIGINT, signal.SIGTERM]))
    assert positions(tmp_path) == ALL_STEPS[:stop_after]
    resumed, result = run.go(tmp_path, resume=True)
    assert result is not None
    assert (result.steps, len(result.history)) == (STEPS, 3), "of the whole run"
    assert result.resumed_at == ((stop_after - 1) // 2, (stop_after - 1) % 2 + 1)
    assert all(result.history)
    assert same(resumed, tensors)
    assert same(state_of(tmp_path), final), "learnables, frozen prompts and the optimiser's tensors"
    assert positions(tmp_path) == ALL_STEPS


def test_stopped_after_every_single_step(whole: Any, tmp_path: Path) -> None:
    run, tensors, final = whole
    for done in range(STEPS):
        run.go(tmp_path, stop_after=1, resume=done > 0)
    resumed, _ = run.go(tmp_path, resume=True)
    assert same(resumed, tensors)
    assert same(state_of(tmp_path), final)
    assert positions(tmp_path) == ALL_STEPS


@pytest.mark.parametrize("stop_in", [1, 3, 5, 10])
def test_stopped_between_two_readings_of_numbers_and_resumed(
    stop_in: int, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where numbers are read seldom: the state and the log hold all steps that were taken."""
    monkeypatch.setattr(loop, "steps_between_reads", lambda _: 5)
    arguments: dict[str, Any] = {"seed": 1, "fingerprint": {"name": "test"}}
    data, recipe = pictures(24), short_recipe(epochs=2)  # six steps an epoch
    whole = new_method(backbone=backbone)
    train(whole, data, recipe, folder=tmp_path / "whole", **arguments)
    cut, calls = new_method(backbone=backbone), 0
    losses = cut.losses

    def interrupted(batch: Any) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        if calls == stop_in:
            signal.raise_signal(signal.SIGTERM)
        return losses(batch)

    monkeypatch.setattr(cut, "losses", interrupted)
    with pytest.raises(Interrupted, match=f"in epoch {(stop_in - 1) // 6 + 1} after {(stop_in - 1) % 6 + 1} steps"):
        train(cut, data, recipe, folder=tmp_path, **arguments)
    assert len(log_rows(tmp_path)) == stop_in
    resumed = new_method(backbone=backbone)
    train(resumed, data, recipe, folder=tmp_path, resume=True, **arguments)
    assert same(copies(resumed), copies(whole))
    assert same(state_of(tmp_path), state_of(tmp_path / "whole"))
    assert positions(tmp_path) == [(epoch, step) for epoch in (1, 2) for step in range(1, 7)]


def test_the_state_holds_more_than_the_learnables(whole: Any) -> None:
    _, tensors, final = whole
    assert {f"method.{name}" for name in tensors} == {name for name in final if name.startswith("method.")}
    assert "method.noise_prompts" in final
    assert any(name.startswith("optimizer.0.") for name in final)


def test_sentences_drawn_anew_each_epoch_are_those_of_the_epoch_after_resuming(
    backbone: Backbone, tmp_path: Path
) -> None:
    run = Run(backbone, "paper-adam")
    run.options = {"resample": "epoch"}
    tensors, _ = run.go(tmp_path / "whole")
    run.go(tmp_path / "cut", stop_after=3)
    resumed, _ = run.go(tmp_path / "cut", resume=True)
    assert same(resumed, tensors)


def test_resuming_where_there_is_nothing_starts_from_the_beginning(whole: Any, tmp_path: Path) -> None:
    run, tensors, _ = whole
    fresh, result = run.go(tmp_path / "new", resume=True)
    assert result is not None
    assert result.resumed_at is None
    assert same(fresh, tensors)
    assert positions(tmp_path / "new") == ALL_STEPS


def test_resuming_a_finished_run_trains_no_further(whole: Any, tmp_path: Path) -> None:
    run, tensors, _ = whole
    run.go(tmp_path)
    again, result = run.go(tmp_path, resume=True)
    assert result is not None
    assert (result.resumed_at, result.steps, len(result.history)) == ((3, 0), STEPS, 3)
    assert same(again, tensors)
    assert positions(tmp_path) == ALL_STEPS


def test_what_a_killed_process_leaves_does_no_harm(backbone: Backbone, tmp_path: Path) -> None:
    """Half a line in the log, half a temporary file: both are removed when the run is resumed."""
    run = Run(backbone, "sgd")
    tensors, _ = run.go(tmp_path / "whole")
    folder = tmp_path / "cut"
    run.go(folder, stop_after=3)
    with (folder / LOG).open("a") as file:
        file.write('{"epoch": 2, "step": 2, "lr": 0.02, "sec')
    (folder / f".{FILE}.abc123.part").write_bytes(b"half")
    (folder / ".mine.part").write_bytes(b"somebody's own")
    resumed, _ = run.go(folder, resume=True)
    assert same(resumed, tensors)
    assert positions(folder) == ALL_STEPS
    assert sorted(path.name for path in folder.iterdir()) == [".mine.part", LOG, FILE]


@pytest.mark.parametrize("every", [1, 5])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_right_before_or_after_the_state_is_written_keeps_the_log_complete(
    when: str, every: int, backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "steps_between_reads", lambda _: every)

    class Killed(BaseException):
        pass

    def killed(*arguments: Any) -> None:
        if when == "before" and arguments[3] == 2:
            raise Killed
        checkpoint.save_state(*arguments)
        if arguments[3] == 2:
            raise Killed

    run = Run(backbone, "sgd")
    with monkeypatch.context() as patched:
        patched.setattr(loop, "save_state", killed)
        with pytest.raises(Killed):
            run.go(tmp_path)
    run.go(tmp_path, resume=True)
    assert positions(tmp_path) == ALL_STEPS


def test_other_settings_are_refused_and_named(tmp_path: Path) -> None:
    settings = {"seed": 1, "options": {"alpha": 0.001, "theta": 0.7}, "recipe": {"lr": 0.1}}
    method = Vector(random_backbone())
    train(method, pictures(), short_recipe(), seed=1, folder=tmp_path, fingerprint=settings)
    before = sha256_file(tmp_path / FILE)
    other = {"seed": 2, "options": {"alpha": 0.01, "theta": 0.7}, "recipe": {"lr": 0.1}}
    with pytest.raises(UserError) as error:
        train(method, pictures(), short_recipe(), seed=1, folder=tmp_path, resume=True, fingerprint=other)
    message = str(error.value)
    assert "(options.alpha: 0.001 → 0.01; seed: 1 → 2)" in message
    assert "without --resume" in message
    assert sha256_file(tmp_path / FILE) == before


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux says which files are mapped")
def test_a_resumed_run_does_not_go_on_in_the_file(tmp_path: Path) -> None:
    """Windows replaces no file that is mapped into memory."""
    method = Vector(random_backbone())
    train(method, pictures(), short_recipe(), seed=1, folder=tmp_path)
    optimizer = short_recipe().make_optimizer(list(method.parameters()))
    with safe_open(tmp_path / FILE, framework="pt") as file:
        fingerprint = json.loads(file.metadata()["fingerprint"])
    assert checkpoint.load_state(tmp_path, method, optimizer, fingerprint) is not None
    assert optimizer.state_dict()["state"]
    assert str(tmp_path / FILE) not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty", "no metadata", "other tensors"])
def test_a_damaged_state_is_one_sentence(damage: str, tmp_path: Path) -> None:
    train(Vector(random_backbone()), pictures(), short_recipe(), seed=1, folder=tmp_path)
    path = tmp_path / FILE
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-7])
    elif damage == "garbage":
        path.write_bytes(b"not a state at all")
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "no metadata":
        save_file(load_file(path), path)
    else:
        position = {"epoch": "1", "step": "0", "fingerprint": "{}"}
        save_file({"method.colour": torch.zeros(4)}, path, metadata=position)
    with pytest.raises(UserError) as error:
        train(Vector(random_backbone()), pictures(), short_recipe(), seed=1, folder=tmp_path, resume=True)
    assert str(path) in str(error.value)
    assert "start anew without --resume" in str(error.value)
    assert "\n" not in str(error.value)


def test_signal_handlers_are_put_back_and_a_second_signal_is_not_held(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    def twice(*_: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(Vector(random_backbone()), pictures(), short_recipe(), seed=1, folder=tmp_path, report=twice)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_without_a_folder_an_interruption_is_pythons_own() -> None:
    with pytest.raises(KeyboardInterrupt):
        train(
            Vector(random_backbone()), pictures(), short_recipe(), seed=1,
            report=lambda *_: signal.raise_signal(signal.SIGINT),
        )  # fmt: skip


class StoppedAtTheEnd(Vector):
    """A signal comes in while an epoch is ended."""

    at = 0

    def end_epoch(self, epoch: int, epochs: int) -> None:
        if epoch == self.at:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("last", [False, True])
def test_a_signal_while_an_epoch_is_ended_is_heard(last: bool, tmp_path: Path) -> None:
    method = StoppedAtTheEnd(random_backbone())
    method.at = short_recipe().epochs - 1 if last else 0
    with pytest.raises(Interrupted, match=f"in epoch {method.at + 1} after") as stopped:
        train(method, pictures(), short_recipe(), seed=1, folder=tmp_path)
    assert stopped.value.code == 143
    again, through = Vector(random_backbone()), Vector(random_backbone())
    train(again, pictures(), short_recipe(), seed=1, folder=tmp_path, resume=True)
    train(through, pictures(), short_recipe(), seed=1)
    assert torch.equal(again.colour, through.colour)


def test_training_in_another_thread_works_without_signal_handlers() -> None:
    results: list[TrainingResult] = []
    method = Vector(random_backbone())
    thread = threading.Thread(target=lambda: results.append(train(method, pictures(), short_recipe(), seed=1)))
    thread.start()
    thread.join()
    assert results[0].steps == STEPS
