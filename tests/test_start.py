"""What a command waits for before it begins."""

from __future__ import annotations

import subprocess
import sys

START = """
import sys
import anprompt.cli
from anprompt import methods
from anprompt.clip import load_backbone
backbone = load_backbone("miniature")
backbone.encode_text(["a cat"])
print(sorted({"torch._dynamo", "sklearn.cluster", "transformers", "matplotlib.pyplot", "ray"} & sys.modules.keys()))
"""


WORKER = "import sys, anprompt.protocols.executors; print('torch' in sys.modules)"


def test_a_worker_waits_for_nothing_that_its_work_does_not_need() -> None:
    ended = subprocess.run([sys.executable, "-c", WORKER], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "False"


def test_a_model_is_loaded_without_what_takes_seconds_to_import() -> None:
    ended = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"
