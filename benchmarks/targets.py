"""What was measured beside what is aimed at, from the JSON files of the other measurements.

    python -m benchmarks.targets benchmarks/results/*.json [--markdown docs/speed.md]

The targets hold for two CPU cores and ViT-B/16 shapes; other results are left out here.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from anprompt.errors import UserError
from anprompt.files import write_text
from anprompt.report.console import table
from benchmarks import common
from benchmarks.common import GIB, Json
from benchmarks.models import RANDOM

# (C, B) -> plain fp32 / ours. The arithmetic that the exact short cuts leave allows 2.9, 10.7, 1.5 and 3.2 in fp32.
STEP = {
    "fp32": {(50, 4): 3.0, (500, 4): 12.0, (50, 32): 1.5, (500, 32): 3.3},
    "bf16": {(50, 4): 5.5, (500, 4): 20.0, (50, 32): 2.7, (500, 32): 5.5},
}
PEAK_SHARE, PEAK_AT = 0.70, (50, 32)
MEMORY_GIB, MEMORY_AT, ESTIMATE_WITHIN = 8.0, (1000, 32), 0.25
ADAPTER, OWN_TOWERS, AT_BATCH = 1.10, {"fp32": 1.0, "bf16": 1.7}, 64
DECODE = 1.6
BEGIN, END = "<!-- measured -->", "<!-- end of measured -->"
COLUMNS = ("quantity", "measured", "target", "met")


@dataclass(frozen=True)
class Row:
    """One line; ``met`` is ``None`` where nothing could be measured."""

    quantity: str
    measured: str
    target: str
    met: bool | None

    def cells(self) -> list[str]:
        return [self.quantity, self.measured, self.target, {None: "–", True: "yes", False: "no"}[self.met]]


def rows(documents: Sequence[Json]) -> list[Row]:
    """All lines that the documents allow: training, evaluation, decoding."""
    made: list[Row] = []
    kinds = {"step": _step, "evaluate": _evaluate, "decode": _decode}
    for document in sorted(documents, key=lambda d: list(kinds).index(d["benchmark"])):
        settings = document["settings"]
        if settings["device"] != "cpu" or settings.get("backbone", RANDOM) != RANDOM:
            continue
        for entry in document["entries"]:
            made += kinds[document["benchmark"]](entry, document)
    return made


def _step(entry: Json, document: Json) -> Iterator[Row]:
    at = entry["classes"], entry["images"]
    where = f"C = {at[0]}, B = {at[1]}"
    for side in document["settings"]["precisions"]:
        wanted = STEP.get(side, {}).get(at)
        name = f"training step, {where}: plain fp32 / ours {side}"
        compared = document["settings"]["plain"] and document["settings"]["plain_precision"] == "fp32"
        if wanted is not None and compared and "plain" in entry:
            ratio = entry.get("ratio", {}).get(side)
            if ratio:
                yield Row(name, common.range_of(ratio), f"≥ {wanted:g}", ratio["median"] >= wanted)
            else:
                yield Row(name, f"plain {entry['plain']}", f"≥ {wanted:g}", None)
        if at == PEAK_AT and side in entry.get("gflops_median", {}):
            rate, peak = entry["gflops_median"][side], document["peak"][side]
            measured = f"{100 * rate / peak:.0f} % ({rate:.0f} of {peak:.0f} GFLOP/s)"
            yield Row(
                f"share of the matrix product's peak, {where}, {side}", measured, "≥ 70 %", rate / peak >= PEAK_SHARE
            )
        memory = entry.get("memory", {}).get(side)
        if at == MEMORY_AT and memory is not None:
            yield from _memory(memory, f"{where}, {side}")


def _memory(memory: Json, where: str) -> Iterator[Row]:
    if "failed" in memory:
        yield Row(f"peak memory of a step, {where}", memory["failed"], f"≤ {MEMORY_GIB:g} GiB", False)
        return
    peak = memory["peak"] / GIB
    yield Row(f"peak memory of a step, {where}", f"{peak:.2f} GiB", f"≤ {MEMORY_GIB:g} GiB", peak <= MEMORY_GIB)
    if "estimate" in memory:
        off = memory["estimate"] / memory["peak"] - 1
        said = f"{memory['estimate'] / GIB:.2f} GiB ({100 * off:+.0f} %)"
        yield Row(f"its estimate, {where}", said, "within 25 %", abs(off) <= ESTIMATE_WITHIN)


def _evaluate(entry: Json, document: Json) -> Iterator[Row]:
    at = "" if entry["batch"] == AT_BATCH else f" at batch {AT_BATCH}"
    for name, ratio in entry["ratio"].items():
        quantity, median = f"evaluation, batch {entry['batch']}: {name}", ratio["median"]
        if name.startswith("adapter"):
            yield Row(quantity, common.range_of(ratio), f"≤ {ADAPTER:.2f}{at}", median <= ADAPTER)
        elif name.startswith("transformers fp32"):
            wanted = OWN_TOWERS[name.split()[-1]]
            yield Row(quantity, common.range_of(ratio), f"≥ {wanted:g}{at}", median >= wanted)


def _decode(entry: Json, document: Json) -> Iterator[Row]:
    ratio = entry["ratio"]
    name = f"decode, resize, crop, {entry['group']}: Pillow / ours"
    yield Row(name, common.range_of(ratio), f"≥ {DECODE:g}", ratio["median"] >= DECODE)


def timed(document: Json) -> str:
    """With how many threads, and by which clock."""
    clock = ", time that the process itself computed" if document["settings"]["clock"] == "cpu" else ""
    return f"threads: {document['machine']['threads']}{clock}"


def markdown(documents: Sequence[Json]) -> str:
    """Machine and table as Markdown."""
    m = documents[0]["machine"]
    lines = [
        f"{m['processor']}, {timed(documents[0])}, {m['memory_gib']} GiB, bf16 products: {m['bf16_products']}; "
        f"Python {m['python']}, torch {m['torch']}; measured {documents[0]['created'][:10]}.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|" + "---|" * len(COLUMNS),
        *(f"| {' | '.join(row.cells())} |" for row in rows(documents)),
    ]
    return "\n".join(lines)


def insert(page: Path, text: str) -> None:
    """Replace what stands between the two marks of a page."""
    old = page.read_text("utf-8")
    if BEGIN not in old or END not in old:
        raise UserError(f"{page}: the marks '{BEGIN}' and '{END}' are missing; the table goes between them.")
    head, rest = old.split(BEGIN, 1)
    write_text(page, f"{head}{BEGIN}\n{text}\n{END}{rest.split(END, 1)[1]}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measured values beside the targets.")
    parser.add_argument("files", nargs="+", type=Path, help="JSON files in benchmarks/results")
    parser.add_argument("--markdown", type=Path, help="page whose table is replaced")
    args = parser.parse_args(argv)
    documents = common.load(args.files)
    table("Speed and memory", COLUMNS, [row.cells() for row in rows(documents)])
    if args.markdown:
        insert(args.markdown, markdown(documents))


if __name__ == "__main__":
    common.run(main)
