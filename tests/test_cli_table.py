"""``anprompt table`` from the command line."""

from __future__ import annotations

import csv
import io
import statistics
from pathlib import Path

import pytest

from anprompt.results import harmonic_mean
from helpers_cli import Cli, Refused
from helpers_records import halves, record, write_records


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A results folder ``results`` in the working folder: base-to-new, few-shot and one ablation."""
    monkeypatch.chdir(tmp_path)
    records = [entry for data in ("dtd", "eurosat", "food101") for entry in halves("zero-shot", data, None, 60, 65)]
    for seed in (1, 2, 3):
        for data in ("dtd", "eurosat", "food101"):
            records += halves("coop", data, seed, 80 + seed, 60)
            records += halves("anprompt", data, seed, 84 + seed, 70)
    records += [record("few-shot", "coop", "dtd", "all", 1, 50 + shots, shots=shots) for shots in (1, 16)]
    records += halves("coop", "dtd", 1, 80, 70, protocol="ablation", ablation="context", variant={"length": 4})
    return write_records(tmp_path / "results", records)


def test_a_table_is_printed_from_the_folder_results(results: Path, cli: Cli) -> None:
    code, out, err = cli("table", "I")
    assert (code, err) == (0, "")
    assert out.startswith("Table I: base-to-new generalisation")
    assert cli("table", "base-to-new", "--results", results).out == out == cli("table", "i").out
    assert out.count("anprompt ") >= 5
    assert max(map(len, out.splitlines())) <= 100


def test_the_width_of_the_terminal_counts(results: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    narrow = cli("table", "I").out
    assert max(map(len, narrow.splitlines())) <= 80
    assert "columns are left out here" in narrow
    assert "paper" in cli("table", "I", "--format", "csv").out.splitlines()[0]


def test_selection_and_comparison(results: Path, cli: Cli) -> None:
    code, out, _ = cli("table", "I", "--methods", "coop, anprompt", "--datasets", "DTD,EuroSAT,food-101",
                       "--compare", "anprompt,coop")  # fmt: skip
    assert code == 0
    assert "zero-shot" not in out
    gains = [harmonic_mean(84 + seed, 70) - harmonic_mean(80 + seed, 60) for seed in (1, 2, 3)]
    assert f"anprompt − coop: HM {statistics.fmean(gains):+.2f} points" in out
    assert "over 9 pairs (9 wins, 0 losses); sign test p = 0.0039" in " ".join(out.split())


def test_own_data_called_like_a_published_set_have_no_values_of_the_paper(results: Path, cli: Cli) -> None:
    own = halves("zero-shot", "flowers", None, 97, 98, benchmarks=(None, None))
    write_records(results / "records" / "more", own)
    own_row, *others = cli("table", "I", "--datasets", "flowers", "--json").document["rows"]
    assert (own_row["data set"], own_row["base"]["mean"], others) == ("flowers (own data)", 97, [])
    assert not [column for column in own_row if "paper" in column and own_row[column] is not None]
    both = [*own, *halves("zero-shot", "oxford_flowers", None, 70, 75, benchmarks=("oxford_flowers",) * 2)]
    write_records(results / "records" / "more", both)
    rows = cli("table", "I", "--datasets", "flowers", "--json").document["rows"]
    assert [row["data set"] for row in rows] == ["Flowers102"], "the published set first; (own data) names the other"
    assert cli("table", "I", "--datasets", "flowers (own data),flowers").code == 0


def test_json(results: Path, cli: Cli) -> None:
    document = cli("table", "I", "--compare", "anprompt,zero-shot", "--json").document
    assert document["name"] == "I"
    (row,) = [row for row in document["rows"] if (row["data set"], row["method"]) == ("DTD", "coop")]
    assert row["base"] == {"mean": 82.0, "sd": 1.0}
    assert (row["seeds"], row["paper_base"], row["best"]) == ("3", 79.44, [])
    assert document["comparison"]["pairs"] == 9
    assert document["notes"][0] == document["comparison"]["in_words"]
    assert document["files"] == []
    assert cli("table", "context", "--json").document["comparison"] is None


def test_files_take_the_form_of_their_suffix(results: Path, cli: Cli) -> None:
    code, out, err = cli("table", "I", "--out", "tables/one.csv")
    assert (code, out) == (0, "")
    assert "wrote 'tables/one.csv'" in err
    assert "note: ± is the standard deviation" in err, "CSV has no place for notes"
    assert len(list(csv.reader(io.StringIO(Path("tables/one.csv").read_text())))) == 1 + 3 * 5
    assert cli("table", "I", "--out", "one.tex").code == 0
    assert Path("one.tex").read_text().startswith("\\begin{table}")
    assert cli("table", "I", "--out", "one.txt", "--format", "markdown").code == 0
    assert Path("one.txt").read_text().startswith("**Table I")


def test_the_figure(results: Path, cli: Cli) -> None:
    document = cli("table", "6", "--figure", "six.svg", "--out", "six.md", "--json").document
    assert document["files"] == ["six.md", "six.png", "six.svg"]
    assert all(Path(file).stat().st_size for file in document["files"])


@pytest.mark.parametrize("form", ["terminal", "markdown", "csv", "latex"])
@pytest.mark.parametrize("name", ["I", "6", "context"])
def test_tables_replace_tables_only(results: Path, cli: Cli, refused: Refused, form: str, name: str) -> None:
    line = ("table", name, "--format", form, "--out", "file.md")
    Path("file.md").write_text("# Notes\n\nTable I: base-to-new (accuracy in %)\n")
    assert "'file.md' is there already and is not a table that anprompt wrote" in refused(*line)
    Path("file.md").unlink()
    assert cli(*line).code == 0
    assert cli("table", "I", "--out", "file.md").code == 0


@pytest.mark.parametrize("mine", ["six.png", "six.svg"])
def test_figures_replace_figures_only(results: Path, cli: Cli, refused: Refused, mine: str) -> None:
    line = ("table", "6", "--figure", "six.png")
    Path(mine).write_text("mine")
    words = f"'.' holds files of yours that would be replaced; give another --figure: {mine}"
    assert words in refused(*line)
    Path(mine).unlink()
    assert [cli(*line).code for _ in range(2)] == [0, 0]


def test_a_duplicate_is_noted_in_the_table(results: Path, cli: Cli) -> None:
    file = results / "records" / "base-to-new" / "0.json"
    (file.parent / "copy.json").write_text(file.read_text())
    assert "of the same evaluation; the newest counts" in " ".join(cli("table", "I").out.split())


WRONG = [
    (("XII",), "Unknown table 'XII'. Did you mean 'XI"),
    (("few-shots",), "Did you mean 'few-shot'?"),
    (("contxt",), "Did you mean 'context'?"),
    (("II",), "There are no results for this table in 'results'; this makes them: anprompt bench --protocol "
     "cross-dataset"),
    (("VI",), "anprompt bench --protocol ablation --ablation VI"),
    (("I", "--results", "reslts"), "There are no results for this table in 'reslts'; this makes them: anprompt bench "
     "--protocol base-to-new"),
    (("I", "--methods", "cop"), "Unknown method in these results: 'cop'. Did you mean 'coop'?"),
    (("I", "--methods", ","), "--methods needs at least one name"),
    (("I", "--datasets", "ucf101"), "Allowed: dtd, eurosat, food101"),
    (("I", "--backbone", "openai/clip"), "Did you mean 'openai/clip-vit-base-patch16'?"),
    (("I", "--source", "dtd"), "--source is for cross-dataset and domain generalisation"),
    (("I", "--compare", "coop"), "--compare takes two rows"),
    (("I", "--compare", "coop,anpromt"), "Did you mean 'anprompt'?"),
    (("I", "--figure", "one.png"), "use it with 'anprompt table 6'"),
    (("6", "--figure", "six.jpg"), "should end in .png, .svg or neither"),
    (("I", "--format", "html"), "must be one of terminal, markdown, csv, latex"),
    (("I", "--out", "results"), "is a folder; give a file"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "sentence"), WRONG, ids=[" ".join(line) for line, _ in WRONG])
def test_mistakes_get_one_sentence(results: Path, refused: Refused, arguments: tuple[str, ...], sentence: str) -> None:
    message = refused("table", *arguments)
    assert sentence in message
    assert len(message.splitlines()) == 1


def test_damaged_records_are_listed(results: Path, refused: Refused) -> None:
    for name in ("x", "y"):
        (results / "records" / f"{name}.json").write_text("{")
    message = refused("table", "I")
    assert "cannot be read" in message
    assert ("x.json': not JSON" in message, "y.json': not JSON" in message) == (True, True)
