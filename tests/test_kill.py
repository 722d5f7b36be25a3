"""Runs of the command line that are killed: resumed ones end with the same bytes."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from anprompt.files import sha256_file
from anprompt.training.checkpoint import FILE
from anprompt.training.log import LOG
from helpers_fit import log_rows


class CommandLine:
    """``anprompt fit`` in processes of its own, long enough to be interrupted many times."""

    def __init__(self, clip: Path, photos: Path, out: Path, epochs: int) -> None:
        self.out = out
        self.arguments = [
            "fit", str(photos), "--backbone", str(clip), "--shots", "4", "--seed", "3", "--out", str(out),
            "--recipe.epochs", str(epochs), "--options.layers", "last-3",
        ]  # fmt: skip
        self.log = out / "training" / LOG

    def start(self, resume: bool) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "anprompt.cli", *self.arguments, *(["--resume"] if resume else [])]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)

    def _written(self) -> int:
        return self.log.stat().st_mtime_ns if self.log.exists() else 0

    def run(self, resume: bool, number: int = 0, delay: float = 0.0) -> tuple[int, str]:
        """Run; with a signal ``number``, send it ``delay`` seconds after training has begun. Returns (code, stderr)."""
        before, process = self._written(), self.start(resume)
        if number:
            while self._written() == before and process.poll() is None:
                time.sleep(0.01)  # the log is opened when training begins
            time.sleep(delay)
            process.send_signal(number)
        _, errors = process.communicate(timeout=240)
        return process.returncode, errors

    def adapter(self) -> tuple[str, str]:
        """Hash of the tensor file, and that of the log's rows without the time."""
        rows = [{key: value for key, value in row.items() if key != "seconds"} for row in log_rows(self.log.parent)]
        return sha256_file(self.out / "adapter.safetensors"), json.dumps(rows)


@pytest.mark.slow
def test_killed_and_interrupted_fits_resume_to_the_same_bytes(
    small_clip: Path, photo_folder: Path, tmp_path: Path
) -> None:
    whole = CommandLine(small_clip, photo_folder, tmp_path / "whole", epochs=40)
    uninterrupted = whole.start(resume=False)
    cut = CommandLine(small_clip, photo_folder, tmp_path / "cut", epochs=40)
    rng = random.Random(1)
    plan = [signal.SIGINT, signal.SIGKILL, signal.SIGTERM]  # more of the second: the slow test below
    for i, number in enumerate(plan):
        code, errors = cut.run(resume=i > 0, number=number, delay=rng.uniform(0.1, 0.25))
        assert not (cut.out / "adapter.json").exists(), "finished before the signal: the run is too short for this test"
        if number == signal.SIGKILL:
            assert code == -signal.SIGKILL
            continue
        assert code == {signal.SIGINT: 130, signal.SIGTERM: 143}[number], errors
        again = " ".join(cut.arguments)
        assert f"anprompt {again} --resume" in errors
        assert errors.count("--resume") == 1
        assert "Traceback" not in errors
        assert (cut.out / "training" / FILE).exists()
    code, errors = cut.run(resume=True)
    assert code == 0, errors
    _, errors = uninterrupted.communicate(timeout=240)
    assert uninterrupted.returncode == 0, errors
    assert cut.adapter() == whole.adapter()
    left = [path.name for path in cut.out.rglob("*") if path.name.endswith(".part")]
    assert left == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kill_9_at_20_random_moments(small_clip: Path, photo_folder: Path, tmp_path: Path) -> None:
    whole = CommandLine(small_clip, photo_folder, tmp_path / "whole", epochs=200)
    code, errors = whole.run(resume=False)
    assert code == 0, errors
    rng = random.Random(2)
    kills, runs = 0, 0
    while kills < 20:
        runs += 1
        cut = CommandLine(small_clip, photo_folder, tmp_path / f"cut-{runs}", epochs=200)
        resume = False
        while not (cut.out / "adapter.json").exists():
            last = kills == 20
            code, errors = cut.run(resume, 0 if last else signal.SIGKILL, rng.uniform(0.0, 0.8))
            assert code == 0 or (code == -signal.SIGKILL and not last), errors
            kills += code != 0
            resume = True
        assert cut.adapter() == whole.adapter()
