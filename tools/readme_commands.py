"""Print the commands of a Markdown file's ``sh`` blocks that are marked to be run, so that CI runs what readers type.

A block is taken when the line before it is ``<!-- run -->``.
"""

from __future__ import annotations

import sys
from pathlib import Path


def commands(text: str) -> list[str]:
    """Lines of all marked blocks, in order."""
    taken: list[str] = []
    lines = iter(text.splitlines())
    for line in lines:
        if line.strip() == "<!-- run -->":
            if not next(lines).startswith("```"):
                raise SystemExit("a '<!-- run -->' mark must stand right before a code block")
            for inside in lines:
                if inside.startswith("```"):
                    break
                taken.append(inside)
    return taken


if __name__ == "__main__":
    found = commands(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if not found:
        raise SystemExit(f"{sys.argv[1]} has no block marked '<!-- run -->'")
    sys.stdout.write("\n".join(found) + "\n")
