"""A quick recipe for ``anprompt bench``, and its records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

QUICK = "method: any\nfrom: the tests\n" + "".join(
    f"{protocol}: {{shots: 2, recipe: {{epochs: 2, batch: 4}}}}\n"
    for protocol in ("base-to-new", "cross-dataset", "domain-generalisation", "few-shot")
)


def records(folder: str = "results") -> dict[str, dict[str, Any]]:
    """All records by file name without the hash."""
    return {p.stem[:-9]: json.loads(p.read_text()) for p in sorted(Path(folder, "records").rglob("*.json"))}


def lasting(folder: str = "results") -> dict[str, dict[str, Any]]:
    """All records without times, and without memory, which depends on what the process holds besides."""
    found = records(folder)
    for record in found.values():
        del record["created"], record["seconds"], record["fit"]["seconds"], record["fit"]["memory"]
    return found
