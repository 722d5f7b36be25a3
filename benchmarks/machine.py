"""The machine in words, and the fastest matrix product that it does: the yardstick for achieved throughput.

python -m benchmarks.machine
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anprompt.results.record import describe_machine

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
NO_BF16 = "none known"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SHAPES = (  # rows, inner, columns: squares, and the linear maps of ViT-B/16 on 32 and 4 images of 202 tokens
    (1024, 1024, 1024), (2048, 2048, 2048), (4096, 4096, 4096),
    (6464, 768, 2304), (6464, 768, 3072), (6464, 3072, 768), (808, 768, 3072),
)  # fmt: skip


def describe() -> dict[str, Any]:
    """What :func:`anprompt.results.record.describe_machine` says, and processor and memory. No host name, no path."""
    memory = _meminfo("MemTotal")
    return {
        **describe_machine(),
        "processor": _processor(),
        "bf16_products": _bf16_products(),
        "memory_gib": None if memory is None else round(memory / 2**30, 1),
    }


def _meminfo(entry: str) -> int | None:
    path = Path("/proc/meminfo")
    match = re.search(rf"^{entry}:\s+(\d+) kB", path.read_text(), re.MULTILINE) if path.exists() else None
    return None if match is None else 1024 * int(match[1])


def _cpuinfo(entry: str) -> str:
    path = Path("/proc/cpuinfo")
    match = re.search(rf"^{entry}\s*:\s*(.+)$", path.read_text(), re.MULTILINE) if path.exists() else None
    return "" if match is None else match[1].strip()


def _processor() -> str:
    name = _cpuinfo("model name") or platform.processor() or "unknown"
    family = [f"{word} {_cpuinfo(entry)}" for word, entry in (("family", "cpu family"), ("model", "model"))]
    return f"{name} ({', '.join(family)})" if _cpuinfo("cpu family") else name


def _bf16_products() -> str:
    """How the processor multiplies bf16, as far as the system says: without such an instruction fp32 is faster."""
    flags = set(_cpuinfo("flags").split()) | set(_cpuinfo("Features").split())
    return next((flag for flag in ("amx_bf16", "avx512_bf16", "bf16") if flag in flags), NO_BF16)


def precisions(device: str) -> list[str]:
    """Number formats worth measuring: on a processor without bf16 products bf16 is imitated, which takes minutes."""
    return ["fp32"] if device == "cpu" and _bf16_products() == NO_BF16 else ["fp32", "bf16"]


def products(device: str, dtype: str) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Ways to compute ``x Wᵀ``: PyTorch's own choice of library, and oneDNN, which on a CPU it only takes for bf16.

    Which of the two is faster in fp32 depends on the processor, by a factor of two.
    """
    ways: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"linear": F.linear}
    if device == "cpu" and dtype == "fp32" and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        ways["onednn"] = lambda x, w: torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], "")
    return ways


@torch.no_grad()
def measure_peak(
    device: str, dtypes: Sequence[str] = ("fp32", "bf16"), seconds: float = 0.5, clock: str = "wall"
) -> dict[str, Any]:
    """Best matrix product over :data:`SHAPES`, per dtype: GFLOP/s, where it was found, and the rate at every shape.

    seconds: how long each shape is tried in each way; the fastest of its calls counts, because what slows a call down
    is not the arithmetic's doing.
    """
    peak: dict[str, Any] = {}
    for dtype in dtypes:
        rates = {}
        for rows, inner, columns in SHAPES:
            x = torch.randn(rows, inner, device=device).to(DTYPES[dtype])
            w = torch.randn(columns, inner, device=device).to(DTYPES[dtype])
            for way, product in products(device, dtype).items():
                times = _times(partial(product, x, w), device, seconds, CLOCKS[clock])
                rates[f"{way} {rows}x{inner}x{columns}"] = round(2e-9 * rows * inner * columns / min(times), 1)
        best = max(rates, key=lambda shape: rates[shape])
        peak[dtype] = {"gflops": rates[best], "where": best, "all": rates}
    return peak


def _times(call: Callable[[], Tensor], device: str, seconds: float, now: Callable[[], float]) -> list[float]:
    times: list[float] = []
    call()  # warm-up
    began = now()
    while len(times) < 2 or now() - began < seconds:
        if device == "cuda":
            torch.cuda.synchronize()
        start = now()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(now() - start)
    return times


def best_of(peaks: Sequence[dict[str, Any]]) -> dict[str, float]:
    """GFLOP/s per dtype: the highest of several measurements, so that a slow moment does not flatter the ratio."""
    return {dtype: max(peak[dtype]["gflops"] for peak in peaks) for dtype in peaks[0]}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Describe the machine and measure its matrix product.")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    device = parser.parse_args(argv).device
    print(json.dumps({"machine": describe(), "peak": measure_peak(device)}, indent=2))


if __name__ == "__main__":
    main()
