"""From the name of a table and a user's wishes to the results that it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anprompt.errors import UserError, did_you_mean, unknown_name
from anprompt.results.collect import PROTOCOLS, Result, meant
from anprompt.results.grid import Scope, title_of
from anprompt.results.paper import paper_tables

FIGURE_1 = Scope("ablation", ablation="X", beside="dapt")
BY_NUMBER = {"I": "base-to-new", "II": "cross-dataset", "III": "domain-generalisation", "6": "few-shot"}


def find_table(name: str, results: Sequence[Result]) -> Scope:
    """What the table called ``name`` is about; the source is still open.

    name: I to XI, 1, 6, a protocol, or the name of an ablation among ``results``; in any case.

    Raises:
        UserError: unknown name, with the nearest known one.
    """
    ablations = [*paper_tables()["ablations"], *sorted({r.ablation for r in results if r.ablation is not None})]
    named = {protocol: Scope(protocol) for protocol in PROTOCOLS if protocol != "ablation"}
    named |= {number: Scope(protocol) for number, protocol in BY_NUMBER.items()}
    named |= {ablation: Scope("ablation", ablation=ablation) for ablation in ablations}
    named["1"] = FIGURE_1
    by_lower = {known.lower(): scope for known, scope in named.items()}
    if name.lower() not in by_lower:
        near = did_you_mean(name, named)
        numbers = ", ".join([*BY_NUMBER, "1", *dict.fromkeys(ablations)])
        protocols = ", ".join(BY_NUMBER.values())
        raise UserError(f"Unknown table '{name}'.{near} Allowed: {numbers}; or the protocols {protocols}.")
    return by_lower[name.lower()]


def select(
    scope: Scope,
    results: Sequence[Result],
    where: Path,
    methods: Sequence[str] = (),
    data_sets: Sequence[str] = (),
    backbone: str | None = None,
    source: str | None = None,
) -> tuple[Scope, list[Result]]:
    """The results of ``scope`` that the user wants, and the scope with its source.

    where: the results folder, for messages. methods, data_sets: all if empty; the source of a transfer always stays.
    backbone: name, end of a path, or start of the weights' hash. source: where transferred methods were trained.

    Raises:
        UserError: nothing is left (how to make it), unknown names, several backbones or sources without a choice.
    """
    chosen = [r for r in results if r.protocol == scope.protocol and r.ablation == scope.ablation]
    if not chosen:
        raise UserError(f"There are no results for this table in '{where}'; this makes them: {_command(scope, where)}")
    if scope.beside is not None:
        tested_on = {result.target for result in chosen}
        chosen += [
            r for r in results if (r.protocol, r.method) == ("base-to-new", scope.beside) and r.target in tested_on
        ]
    chosen = _one_backbone(chosen, backbone)
    if scope.protocol in ("cross-dataset", "domain-generalisation"):
        scope = scope._replace(source=_one_source(chosen, source))
        chosen = [result for result in chosen if result.source == scope.source]
    elif source is not None:
        raise UserError("--source is for cross-dataset and domain generalisation: other tables test where they train.")
    known = sorted({result.method for result in chosen})
    for name in methods:
        if name not in known:
            raise unknown_name("method in these results:", name, known)
    there = sorted({result.target for result in chosen})
    wanted = [meant(name, there) for name in data_sets]
    for name in wanted:
        if name not in there:
            raise unknown_name("data set in these results:", name, there)
    kept = [
        result
        for result in chosen
        if (not methods or result.method in methods)
        and (not wanted or result.target in wanted or result.target == scope.source)
    ]
    if not kept:
        raise UserError(f"None of the methods {', '.join(methods)} has results on {', '.join(wanted)}.")
    return scope, kept


def _command(scope: Scope, where: Path) -> str:
    ablation = f" --ablation {scope.ablation}" if scope.ablation is not None else ""
    return f"anprompt bench --protocol {scope.protocol}{ablation} --methods … --datasets … --out {where}"


def _one_backbone(results: Sequence[Result], backbone: str | None) -> list[Result]:
    """Those of one backbone: numbers of several do not belong into one table."""
    chosen = list(results)
    if backbone is not None:
        chosen = [
            result
            for result in results
            if backbone in (result.backbone, Path(result.backbone).name)
            or (len(backbone) >= 6 and result.weights.startswith(backbone))
        ]
    if not chosen:
        raise unknown_name("backbone in these results:", str(backbone), sorted({r.backbone for r in results}))
    found = {result.weights: result.backbone for result in chosen}
    if len(found) > 1:
        listed = ", ".join(
            f"{name} ({weights[:12]})" for weights, name in sorted(found.items(), key=lambda pair: pair[1])
        )
        raise UserError(
            f"These results are of {len(found)} backbones, which do not compare: {listed}. Choose one with --backbone, "
            "by its name or by the start of its hash (in brackets)."
        )
    return chosen


def _one_source(results: Sequence[Result], source: str | None) -> str:
    there = sorted({result.source for result in results})
    if source is not None:
        name = meant(source, there)
        if name not in there:
            raise unknown_name("source in these results:", source, there)
        return name
    if len(there) > 1:
        listed = ", ".join(f"{name} ({title_of(name)})" if title_of(name) != name else name for name in there)
        raise UserError(f"These results have {len(there)} sources: {listed}. Choose one with --source.")
    return there[0]
