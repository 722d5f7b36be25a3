"""The paper's values beside ours: the right ones, and a warning where they do not compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from anprompt.clip.checkpoint import OPENAI_NAMES
from anprompt.data.benchmarks import find_benchmark
from anprompt.results.paper import (
    ALIAS,
    HUB_ID,
    eleven,
    is_papers_backbone,
    paper_average,
    paper_cells,
    paper_tables,
)
from helpers_records import Record, halves, read_back, record, rows_of, table_of
from tools.paper_tables import build

NOT = "These numbers do not compare with the paper's: "


@pytest.mark.real
def test_packaged_values_are_the_papers(real: Path) -> None:
    file = real.parent / "paper" / "tables.json"
    if not file.exists():
        pytest.skip("the paper's tables as data are not beside this checkout")
    printed = json.loads(file.read_text())
    assert paper_tables() == build(printed), "tools/paper_tables.py makes the packaged file"
    ours = {there: name for name, titles in paper_tables()["methods"].items() for there in titles}

    def name(title: str) -> str:
        return "average" if title == "Average" else find_benchmark(title).name

    seen = 0
    for title, methods in printed["I_base_to_novel"].items():
        for method, cell in methods.items():
            found = paper_cells("base-to-new", ours[method])[name(title)]
            assert found == {"base": cell["base"], "new": cell["novel"], "hm": cell["hm"]}
            seen += 1
    for key, protocol in (
        ("II_cross_dataset", "cross-dataset"),
        ("III_domain_generalization", "domain-generalisation"),
    ):
        for method, row in printed[key].items():
            assert paper_cells(protocol, ours[method]) == {name(title): {"accuracy": v} for title, v in row.items()}
            seen += len(row)
    assert seen == 12 * 12 + 9 * 12 + 10 * 6
    assert set(paper_tables()["ablations"]) == {"IV", "V", "VI", "VII", "VIII", "IX", "X", "XI"}
    for table, content in paper_tables()["ablations"].items():
        (key,) = [key for key in printed if key.startswith(f"{table}_")]
        rows = printed[key]
        assert len(content["rows"]) == len(rows)
        for row in content["rows"]:
            if table == "IV":
                wanted = [r["hm"] for r in rows if all(bool(r[k]) == on for k, on in row["variant"].items())]
                assert [row["hm"]] == wanted
            else:
                (option,) = row["variant"].values()
                cell = rows["weak" if option == "bank" else str(option)]
                assert (row["base"], row["new"], row["hm"]) == (cell["base"], cell["novel"], cell["hm"])
    gain = printed["fig6_few_shot_gain_over_maple"]
    assert paper_tables()["few-shot gain"]["by shots"] == {k: v for k, v in gain.items() if k != "note"}
    assert f"ANPrompt {paper_cells('few-shot', 'anprompt')['dtd']['16']}" in gain["note"]


# Printed averages that are not the means of the printed cells, by how much: facts of the paper, kept as printed.
AS_PRINTED = {
    ("base-to-new", "cocoop", "base"): 0.15,
    ("base-to-new", "cocoop", "new"): 0.03,
    ("base-to-new", "cocoop", "hm"): 0.08,
    ("base-to-new", "coprompt", "base"): 0.02,
    ("base-to-new", "textrefiner", "new"): 0.28,
    ("base-to-new", "textrefiner", "hm"): 0.15,
    ("cross-dataset", "maple", "accuracy"): 0.14,
    ("cross-dataset", "coprompt", "accuracy"): -0.33,
    ("domain-generalisation", "promptsrc", "accuracy"): 0.02,
}


def test_the_papers_averages_follow_from_its_cells() -> None:
    off = {}
    for protocol, source in (
        ("base-to-new", None),
        ("cross-dataset", "imagenet"),
        ("domain-generalisation", "imagenet"),
    ):
        for method, cells in paper_tables()["accuracy"][protocol].items():
            own = {name: cell for name, cell in cells.items() if name != "average"}
            computed = paper_average(own, set(own) - {source}, source)
            for measure, value in cells["average"].items():
                if abs(computed[measure] - value) > 0.016:
                    off[protocol, method, measure] = round(computed[measure] - value, 2)
    assert off == pytest.approx(AS_PRINTED, abs=0.011)


def ours(shift: float, **changes: Any) -> list[Record]:
    """anprompt on the paper's eleven data sets: its own values, shifted."""
    cells = {name: cell for name, cell in paper_cells("base-to-new", "anprompt").items() if name != "average"}
    return [
        entry
        for name, cell in cells.items()
        for entry in halves("anprompt", name, 1, cell["base"] + shift, cell["new"] + shift, **changes)
    ]


def test_values_and_differences_stand_beside_ours(tmp_path: Path) -> None:
    table = table_of("I", read_back(tmp_path, ours(-1.0)))
    dtd = rows_of(table)["DTD", "anprompt"].cells
    assert (dtd["paper_base"], dtd["paper_new"], dtd["paper_hm"]) == (85.2, 65.1, 73.8)
    assert dtd["difference_base"] == pytest.approx(-1)
    average = rows_of(table)["average of 11", "anprompt"].cells
    assert (average["paper_base"], average["paper_new"], average["paper_hm"]) == (86.15, 77.7, 81.7), "as printed"
    without = rows_of(table)["without EuroSAT", "anprompt"].cells
    cells = [
        cell for name, cell in paper_cells("base-to-new", "anprompt").items() if name not in ("average", "eurosat")
    ]
    assert without["paper_base"] == pytest.approx(sum(cell["base"] for cell in cells) / 10)
    assert not [note for note in table.notes if note.startswith(NOT)], "ViT-B/16, published splits, 16 shots"


def test_averages_over_fewer_data_sets_have_the_papers_over_the_same(tmp_path: Path) -> None:
    chosen = [entry for entry in ours(0) if entry["config"]["target"] in ("dtd", "food101")]
    table = table_of("I", read_back(tmp_path, chosen))
    assert rows_of(table)["average of 2", "anprompt"].cells["paper_base"] == pytest.approx((85.2 + 90.63) / 2)
    assert "computed from its cells" in " ".join(table.notes)
    mixed = [*chosen, *halves("anprompt", "toyworld", 1, 80, 80)]
    cells = rows_of(table_of("I", read_back(tmp_path / "own", mixed)))["average of 3", "anprompt"].cells
    assert cells["paper_base"] is None, "the paper has no toy world"


def test_a_method_that_the_paper_lacks_has_no_value(tmp_path: Path) -> None:
    table = table_of("I", read_back(tmp_path, halves("mine", "dtd", 1, 80, 60)))
    assert [column.key for column in table.columns] == ["seeds", "base", "new", "hm"]


NAMES = ("openai/clip-vit-base-patch16", "/weights/ViT-B-16.pt", "ViT-B-16.pt", "ViT-B/16",
         "/models/clip-vit-base-patch16", "clip-vit-base-patch16")  # fmt: skip


@pytest.mark.parametrize("backbone", NAMES)
def test_the_papers_backbone_is_known_by_its_names(tmp_path: Path, backbone: str) -> None:
    table = table_of("I", read_back(tmp_path, ours(0, backbone=backbone)))
    assert not [note for note in table.notes if note.startswith(NOT)]


def test_what_is_no_name_of_the_papers_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert OPENAI_NAMES[ALIAS] == HUB_ID
    others = ("miniature", "ViT-B/32", "ViT-L/14", "openai/clip-vit-base-patch32", "/models/ViT-B-32.pt", "16",
              "our-ViT-B-16.pt", "/models/clip-vit-base-patch16-laion")  # fmt: skip
    assert not [name for name in others if is_papers_backbone(name)]
    monkeypatch.chdir(tmp_path)
    local = "models/clip-vit-base-patch16"
    assert not is_papers_backbone(local), "the hub's name of a model of somebody called models"
    Path(local).mkdir(parents=True)
    assert is_papers_backbone(local)
    assert is_papers_backbone(f"./{local}/")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"backbone": "miniature"}, "the backbone is 'miniature', the paper's is OpenAI's CLIP ViT-B/16"),
        ({"backbone": "openai/clip-vit-base-patch32"}, "the backbone is 'openai/clip-vit-base-patch32'"),
        ({"own_split": True, "differs": ["DTD is split by anprompt."]}, "DTD is split by anprompt."),
        ({"differs": ["DTD has 46 classes here, 47 as published"]}, "DTD has 46 classes here"),
        ({"shots": 4}, "trained with 4 shots, not with the field's 16"),
        ({"split": "val"}, "measured on the split 'val', not on test"),
    ],
)
def test_what_does_not_compare_is_said_first(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    table = table_of("I", read_back(tmp_path, halves("anprompt", "dtd", 1, 80, 60, **changes)))
    assert table.notes[0].startswith(NOT)
    assert reason in table.notes[0]


def test_transfers_have_the_papers_values(tmp_path: Path) -> None:
    printed = paper_cells("domain-generalisation", "coop")
    records = [
        record("domain-generalisation", "coop", name, "all", 1, cell["accuracy"] + 2, source="imagenet")
        for name, cell in printed.items()
        if name != "average"
    ]
    table = table_of("III", read_back(tmp_path, records))
    cells = rows_of(table)["average of 4", "coop"].cells
    assert cells["paper_accuracy"] == 59.28
    assert cells["difference_accuracy"] == pytest.approx(2, abs=0.01)
    assert rows_of(table)["ImageNet (source)", "coop"].cells["paper_accuracy"] == 71.51
    assert "ImageNet-Sketch" in {row.group for row in table.rows}


# Ablations


def ablation(
    name: str, variant: dict[str, Any], data_sets: tuple[str, ...], base: float = 86, new: float = 77
) -> list[Record]:
    return [
        entry
        for data in data_sets
        for entry in halves("anprompt", data, 1, base, new, protocol="ablation", ablation=name, variant=variant)
    ]


def test_an_ablation_over_the_eleven_has_the_papers_averages(tmp_path: Path) -> None:
    every = tuple(sorted(eleven()))
    records = [*ablation("VI", {"alpha": 0.1}, every), *ablation("VI", {}, every)]
    table = table_of("vi", read_back(tmp_path, records))
    assert table.title == "Table VI: weight α of the noise feature (accuracy in %)"
    assert table.heads == ("data set", "alpha")
    rows = rows_of(table)
    assert rows["average of 11", "0.001"].cells["paper_hm"] == 81.7, "left as in the recipe: the paper's own value"
    assert rows["average of 11", "0.1"].cells["difference_base"] == pytest.approx(86 - 86.09)
    assert "paper_hm" not in {key for key, cell in rows["DTD", "0.1"].cells.items() if cell is not None}
    assert [row.label for row in table.rows[:2]] == ["0.001", "0.1"]


def test_an_ablation_over_other_data_sets_shows_no_difference(tmp_path: Path) -> None:
    table = table_of("VI", read_back(tmp_path, ablation("VI", {"alpha": 0.1}, ("dtd",))))
    cells = rows_of(table)["DTD", "0.1"].cells
    assert cells["paper_hm"] == 81.0
    assert "difference_hm" not in cells
    assert "averages over its eleven data sets: no difference is shown" in " ".join(table.notes)


def test_components_and_layers_as_the_paper_words_them(tmp_path: Path) -> None:
    off = {"text_noise": False, "wa_loss": False, "anti_prompt": False}
    records = [*ablation("IV", off, ("dtd",)), *ablation("IV", {"wa_loss": False}, ("dtd",))]
    table = table_of("IV", read_back(tmp_path / "iv", records))
    assert table.heads[1] == "text_noise / wa_loss / anti_prompt"
    assert {row.label: row.cells["paper_hm"] for row in table.rows} == {
        "off / off / off": 80.91,
        "on / off / on": 81.31,
    }
    assert "paper_base" not in {column.key for column in table.columns}
    layers = [*ablation("XI", {"layers": "last-7"}, ("dtd",)), *ablation("XI", {"layers": "1-3"}, ("dtd",))]
    rows = rows_of(table_of("XI", read_back(tmp_path / "xi", layers)))
    assert rows["DTD", "6-12"].cells["paper_hm"] == 81.7
    assert rows["DTD", "1-3"].cells["paper_hm"] == 78.58


def test_an_ablation_of_two_methods_names_them(tmp_path: Path) -> None:
    records = ablation("VIII", {"theta": 0.5}, ("dtd",))
    other = [{**entry, "config": {**entry["config"], "method": "mine"}} for entry in records]
    rows = rows_of(table_of("VIII", read_back(tmp_path, [*records, *other])))
    assert rows["DTD", "anprompt: 0.5"].cells["paper_hm"] == 80.82
    assert rows["DTD", "mine: 0.5"].cells["paper_hm"] is None, "the paper varies ANPrompt only"


def test_an_ablation_of_ones_own(tmp_path: Path) -> None:
    records = [
        record(
            "ablation",
            "coop",
            "dtd",
            "all",
            1,
            60 + length,
            ablation="context",
            variant={"length": length, "init": "random"},
        )
        for length in (16, 4)
    ]
    table = table_of("Context", read_back(tmp_path, records))
    assert (table.title, table.heads[1]) == ("Ablation context (accuracy in %)", "init / length")
    assert [(row.label, row.best) for row in table.rows] == [
        ("random / 4", frozenset()),
        ("random / 16", frozenset({"accuracy"})),
    ]
    assert [column.key for column in table.columns] == ["seeds", "accuracy"]
