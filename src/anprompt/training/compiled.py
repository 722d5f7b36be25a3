"""The frozen blocks, compiled for the time of a run."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

from anprompt.clip import Backbone
from anprompt.errors import UserError

COMPILED = ("packed", "keys_values")  # the methods of a block in which a step's time goes
FORMS = 64  # compiled forms of each to keep: rows come in several numbers, with and without gradients


@contextlib.contextmanager
def compiled_blocks(backbone: Backbone, how: str) -> Iterator[Callable[[], None]]:
    """Compile the towers' blocks meanwhile, and leave them as they were. Yields what to call before each step.

    how: ``"off"``; ``"on"``: with PyTorch's compiler; ``"graphs"``: passes with gradients are also replayed as CUDA
        graphs. What frozen passes give is kept from step to step, which the memory of a graph would not allow.
    Raises :class:`UserError` for graphs on another device, and where the machine lacks a compiler.
    """
    if how == "off":
        yield lambda: None
        return
    check_can_compile(how, backbone.device)
    import torch._dynamo  # slow to import

    blocks = [*backbone.vision.blocks, *backbone.text.blocks]
    try:
        with torch._dynamo.config.patch(recompile_limit=FORMS), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Dynamo detected a call to a `functools.lru_cache`")  # masks: constants
            for block in blocks:
                for name in COMPILED:
                    setattr(block, name, _compiled(getattr(block, name), how))
            yield torch.compiler.cudagraph_mark_step_begin if how == "graphs" else lambda: None
    finally:
        for block in blocks:
            for name in COMPILED:
                vars(block).pop(name, None)


def check_can_compile(how: str, device: torch.device) -> None:
    """Raise :class:`UserError` when ``how`` is impossible on ``device`` or on this machine."""
    if how == "graphs" and device.type != "cuda":
        raise UserError(f"--recipe.compile graphs needs a CUDA device; this run is on '{device.type}'.")
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if how != "off" and shutil.which(compiler) is None:
        raise UserError(
            f"--recipe.compile {how} needs the C++ compiler '{compiler}', which is not on this machine: install it, or "
            "leave --recipe.compile off."
        )


def _compiled(function: Callable[..., Any], how: str) -> Callable[..., Any]:
    """``function``, compiled; when that fails, it is one sentence and not a fault of ours."""
    plain = torch.compile(function)
    replayed = torch.compile(function, mode="reduce-overhead") if how == "graphs" else plain

    def call(*arguments: Any, **named: Any) -> Any:
        from torch._dynamo.exc import BackendCompilerFailed

        try:
            return (replayed if torch.is_grad_enabled() else plain)(*arguments, **named)
        except BackendCompilerFailed as error:
            reason = str(error.inner_exception).strip().partition("\n")[0].rstrip(".:")
            raise UserError(f"The towers could not be compiled ({reason}): leave --recipe.compile off.") from error

    return call
