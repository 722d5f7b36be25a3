"""``anprompt report``: one page in one file, with the numbers that evaluate gives."""

from __future__ import annotations

import copy
import itertools
import json
import shlex
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anprompt import PromptClassifier, methods
from anprompt.cli import COMMANDS, run
from anprompt.commands.arguments import parse
from anprompt.report.page import parts
from anprompt.report.page.given import look_at, losses
from anprompt.report.page.render import fixed
from helpers_cli import Cli, Refused
from helpers_page import Page
from helpers_records import halves, write_records

PARTS = ("data", "classes", "confusion", "calibration", "mistakes", "wording", "learning", "settings", "rerun")


def reported(*line: object) -> str:
    """Make a page; give its HTML."""
    with warnings.catch_warnings(action="ignore"):
        assert run(["report", *map(str, line)]) == 0
    return Path(str(line[list(line).index("-o") + 1])).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(small_adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page of ``small_adapter``, whose data are found through its configuration."""
    return Page(reported(small_adapter, "-o", tmp_path_factory.mktemp("page") / "report.html"))


@pytest.fixture(scope="module")
def zero_shot(small_clip: Path, photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that learnt nothing: made in a second, and wrong often."""
    folder = tmp_path_factory.mktemp("zero") / "adapter"
    assert run(f"fit {photo_folder} --backbone {small_clip} --method zero-shot --out {folder}".split()) == 0
    return folder


# The page


def test_all_parts_are_there(page: Page) -> None:
    sections = [attributes["id"] for attributes in page.all("section")]
    assert tuple(sections) == PARTS
    links = [attributes["href"] for attributes in page.all("a")]
    assert links == [f"#{name}" for name in PARTS]
    assert "Not here:" not in page.text
    assert "cross entropy" in page.text
    assert "prompt_length: 5" in page.text


def test_nothing_is_loaded_from_anywhere(page: Page) -> None:
    assert page.loaded
    assert all(str(target).startswith(("#", "data:")) or target[0].startswith("#") for target in page.loaded)
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "'unsafe-inline'" not in policy.partition("script-src")[2]


def test_it_can_be_read_by_everybody(page: Page) -> None:
    assert page.all("html")[0]["lang"] == "en"
    assert any("width=device-width" in meta.get("content", "") for meta in page.all("meta"))
    pictures = page.all("img")
    assert len(pictures) > 12
    assert all(picture["alt"] and picture["width"] and picture["height"] for picture in pictures)
    assert all(plot["aria-label"] for plot in page.all("svg"))
    levels = [int(tag[1]) for tag, _ in page.tags if tag in ("h1", "h2", "h3")]
    assert levels.count(1) == 1
    assert all(below - above <= 1 for above, below in itertools.pairwise(levels))
    scopes = [attributes.get("scope") for attributes in page.all("th")]
    assert set(scopes) == {"col", "row"}
    style = page.html[page.html.index("<style>") : page.html.index("</style>")]
    assert "prefers-color-scheme: dark" in style
    assert "@media print" in style


def test_numbers_are_those_of_evaluate(page: Page, small_adapter: Path, photo_folder: Path, cli: Cli) -> None:
    document = cli("evaluate", small_adapter, photo_folder, "--json").document
    shown = [text for row in ("accuracy", "class_mean") for text in [f"{document[row]:.2f}\N{NO-BREAK SPACE}%"]]
    for key, text in zip(("accuracy", "class_mean"), shown, strict=True):
        assert f'data-value="{key}">{text.replace(chr(160), "&nbsp;")}</dd>' in page.html
    for name, row in document["per_class"].items():
        assert page.row(name)[:3] == [name, str(row["images"]), f"{row['accuracy']:.1f}"]
    wrong = round(document["images"] * (1 - document["accuracy"] / 100))
    assert f"{wrong} answers are wrong" in page.text


def test_zero_shot_stands_beside_it(
    page: Page, small_adapter: Path, small_clip: Path, photo_folder: Path, zero_shot: Path, tmp_path: Path, cli: Cli
) -> None:
    document = cli("zeroshot", photo_folder, "--backbone", small_clip, "--json").document
    assert f'data-value="zero_shot">{document["accuracy"]:.2f}&nbsp;%</dd>' in page.html
    assert f"without tuning, by zero-shot, {document['accuracy']:.1f} %" in page.text
    column = next(row.index("zero-shot %") for row in page.cells if "zero-shot %" in row and "photos" in row)
    for name, row in document["per_class"].items():
        assert page.row(name)[column] == f"{row['accuracy']:.1f}"
    for run_of, more in ((small_adapter, ["--quick"]), (zero_shot, [])):
        made = Page(reported(run_of, "-o", tmp_path / "page.html", *more))
        assert "without tuning" not in made.text
        assert "zero-shot %" not in made.text


def test_the_confusion_matrix_counts_every_photo(page: Page) -> None:
    start = next(i for i, row in enumerate(page.cells) if row[1:] == ["blue star", "green circle", "red square",
                                                                      "white cat"])  # fmt: skip
    counts = [[int(cell or 0) for cell in row[1:]] for row in page.cells[start + 1 : start + 5]]
    assert [sum(row) for row in counts] == [4, 4, 4, 4]
    for i, name in enumerate(["blue star", "green circle", "red square", "white cat"]):
        assert float(page.row(name)[2]) == 100 * counts[i][i] / 4


def test_worst_mistakes_are_the_surest_wrong_answers(zero_shot: Path, photo_folder: Path, tmp_path: Path) -> None:
    made = Page(reported(zero_shot, "-o", tmp_path / "zero.html"))
    result = PromptClassifier.load(zero_shot).evaluate(str(photo_folder))
    wrong = [row for row in result["predictions"] if row["label"] != row["prediction"]]
    wrong.sort(key=lambda row: -row["probability"])
    assert wrong
    described = [picture["alt"] for picture in made.all("img") if picture["alt"].startswith("A photo of")]
    assert described == [f"A photo of {row['label']}, {row['path']}" for row in wrong[: parts.MISTAKES]]
    maps = [picture["alt"] for picture in made.all("img") if picture["alt"].startswith("The same photo with a map")]
    assert len(maps) == len(described)
    assert "No relevance maps" not in made.text
    assert "this method is not trained in steps" in made.text


def test_commands_of_the_page_are_accepted_and_repeat_the_run(
    page: Page, small_adapter: Path, photo_folder: Path, cli: Cli, tmp_path: Path
) -> None:
    assert f"anprompt fit --config {small_adapter}/config.yaml --out again" in page.text
    assert f"anprompt evaluate {small_adapter} {photo_folder} --split test" in page.text
    assert f"anprompt report {small_adapter} --out" in page.text
    bare = tmp_path / "adapter"  # without its configuration, the command says everything
    shutil.copytree(small_adapter, bare)
    (bare / "config.yaml").unlink()
    document = cli("report", bare, photo_folder, "-o", tmp_path / "bare.html", "--quick", "--json").document
    assert document["missing"] == {"wording": "left out by --quick."}
    made = Page((tmp_path / "bare.html").read_text())
    start = made.text.index("anprompt fit ")
    line = made.text[start : made.text.index(" --out again", start)]
    words = parse(COMMANDS["fit"], shlex.split(line)[2:])
    assert words["recipe"] == {"epochs": 2}
    assert {key: words[key] for key in ("shots", "seed", "method", "preset")} == {
        "shots": 4, "seed": 1, "method": "anprompt", "preset": "paper"}  # fmt: skip


# What is in names is text


NASTY = ("<script>alert(1)</script>", "a & b <b>bold</b>", "{{ 7 * 7 }} \"'")


@pytest.fixture(scope="module")
def nasty(small_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The page of photos whose class and file names are HTML and templates."""
    root = tmp_path_factory.mktemp("nasty")
    rows = []
    for split, count in (("train", 1), ("test", 4)):
        for level, name in enumerate(NASTY):
            for i in range(count):
                file = f"{split}{level}{i}'\"><img src=x onerror=alert(1)>.png"
                Image.new("RGB", (30, 30), (80 * level, 60 * i, 90)).save(root / file)
                rows.append({"path": file, "label": name, "split": split})
    table = root / "photos.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert (
        run(["fit", str(table), "--backbone", str(small_clip), "--method", "zero-shot", "--out", str(root / "a")]) == 0
    )
    return Page(reported(root / "a", "-o", root / "page.html", "--noises", "typo"))


def test_names_are_shown_and_never_run(nasty: Page) -> None:
    assert len(nasty.all("script")) == 1
    assert nasty.all("b") == []
    assert not any("onerror" in attributes for _, attributes in nasty.tags)
    assert all(picture["src"].startswith("data:image/webp;base64,") for picture in nasty.all("img"))
    assert {row[0] for row in nasty.cells} >= {" ".join(name.split()) for name in NASTY}
    assert "<img src=x onerror=alert(1)>.png" in nasty.text
    assert "Not here: this method is not trained in steps" in nasty.text
    assert nasty.text.count("Not here:") == 1


# Size


def test_a_thousand_photos_of_two_hundred_classes_stay_small(small_clip: Path, tmp_path: Path, cli: Cli) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for label in range(200):
        for i in range(6):
            noise = Image.fromarray(rng.integers(0, 256, (120, 160, 3), dtype=np.uint8))  # the hardest to compress
            noise.save(tmp_path / f"{label}-{i}.jpg")
            rows.append(
                {"path": f"{label}-{i}.jpg", "label": f"class number {label}", "split": "test" if i else "train"}
            )
    (tmp_path / "photos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    line = [
        "fit",
        tmp_path / "photos.jsonl",
        "--backbone",
        small_clip,
        "--method",
        "zero-shot",
        "--out",
        tmp_path / "a",
    ]
    assert cli(*line).code == 0
    document = cli("report", tmp_path / "a", "-o", tmp_path / "page.html", "--noises", "drop", "--json").document
    assert document["numbers"]["images"] == 1000
    assert document["numbers"]["top"] >= document["numbers"]["accuracy"]
    assert document["missing"].keys() == {"learning"}
    assert document["bytes"] < 3e6
    made = Page((tmp_path / "page.html").read_text())
    assert "120 of the 200 classes" in made.text
    assert "With more than 40 classes there is no matrix" in made.text
    assert len([row for row in made.cells if row[0].startswith("class number") and len(row) == 6]) == 200


# What is missing says so


def test_a_record_alone_shows_what_it_has(cli: Cli, small_adapter: Path, photo_folder: Path, tmp_path: Path) -> None:
    record = tmp_path / "evaluation.json"
    expected = cli("evaluate", small_adapter, photo_folder, "--record", record, "--json").document
    code, printed, err = cli("report", record, "-o", tmp_path / "page.html")
    assert code == 0
    (line,) = [line for line in err.splitlines() if "not in the page" in line]
    assert "Worst mistakes" in line
    assert line.count("only the record of this run is there") == 1
    assert str(tmp_path / "page.html") in printed
    made = Page((tmp_path / "page.html").read_text())
    assert "nothing was evaluated anew" in made.text
    for name, row in expected["per_class"].items():
        assert made.row(name)[:3] == [name, str(row["images"]), f"{row['accuracy']:.1f}"]
    assert f"anprompt evaluate ADAPTER {photo_folder.name} --split test --subset all" in made.text
    with_photos = Page(reported(record, photo_folder, "-o", tmp_path / "page.html"))
    assert len(with_photos.all("img")) == 4 * parts.THUMBS


def test_a_results_folder_lists_its_evaluations(tmp_path: Path) -> None:
    folder = write_records(tmp_path / "runs", halves("coop", "eurosat", 1, 91.5, 70.25))
    made = Page(reported(folder, "-o", tmp_path / "page.html"))
    assert made.row("base-to-new") == ["base-to-new", "eurosat", "base", "coop", "16", "1", "91.50"]
    assert "this page is about many evaluations" in made.text
    one = Page(reported(folder / "records" / "base-to-new" / "1.json", "-o", tmp_path / "page.html"))
    assert "70.25" in one.html
    assert "anprompt bench --protocol base-to-new --methods coop --datasets eurosat --seeds 1 --shots 16" in one.text


def test_a_benchmarks_record_finds_its_adapter(small_adapter: Path, photo_folder: Path, tmp_path: Path) -> None:
    about = json.loads((small_adapter / "adapter.json").read_text())
    shutil.copytree(small_adapter, tmp_path / "runs" / "adapters" / "photos-all")
    record = halves("anprompt", "photos", 1, 50.0, 50.0)[0]
    record["config"] |= {"subset": "all", "target_subset": "all", "seed": about["seed"],
                         "settings": {key: about[key] for key in ("preset", "options", "recipe")}}  # fmt: skip
    record["fit"] = {"data_sha256": about["data"]["sha256"]}
    other = copy.deepcopy(record)
    other["config"]["settings"]["recipe"]["epochs"] = 3
    folder = write_records(tmp_path / "runs", [record, other])
    places = [folder / "records" / "base-to-new" / f"{i}.json" for i in (0, 1)]
    assert [look_at(place).adapter is not None for place in places] == [True, False]
    made = Page(reported(places[0], photo_folder, "-o", tmp_path / "page.html", "--quick"))
    assert "confusion matrix" in made.text.lower()
    without = Page(reported(places[0], "-o", tmp_path / "page.html", "--quick"))
    assert "the data 'photos' are not found here" in without.text


def test_a_robustness_record_shows_its_wording(cli: Cli, zero_shot: Path, photo_folder: Path, tmp_path: Path) -> None:
    line = ("robustness", photo_folder, "--adapter", zero_shot, "--noises", "typo", "--wordings", 1, "--samples", 2)
    assert cli(*line, "--out", tmp_path).code == 0
    made = Page(reported(tmp_path / "robustness.json", "-o", tmp_path / "page.html"))
    assert made.row("typo 0.3")[1] == "zero-shot"
    assert "8 photos" in made.text


def test_a_baked_adapter_has_no_wording(small_adapter: Path, photo_folder: Path, tmp_path: Path) -> None:
    PromptClassifier.load(small_adapter).bake().save(tmp_path / "baked")
    made = Page(reported(tmp_path / "baked", photo_folder, "-o", tmp_path / "page.html"))
    assert "the adapter is baked" in made.text
    assert "confusion matrix" in made.text.lower()
    assert "neither the log nor the record of the training lies beside the adapter" in made.text


def test_noise_that_does_not_fit_a_method_leaves_only_itself_out(
    small_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = methods.find("anprompt")
    monkeypatch.setattr(own, "block_logits", lambda self, f, b: methods.Method.block_logits(self, f, b), raising=False)
    made = Page(reported(small_adapter, "-o", tmp_path / "page.html", "--noises", "weak"))
    assert "anprompt is left out of noise 'weak': its logits come from no class weights." in made.text
    assert made.row("weak 0.01")[1] == "zero-shot"


def test_a_part_that_fails_takes_no_other_with_it(
    cli: Cli, zero_shot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no <ink> left")

    monkeypatch.setattr(parts.charts, "reliability", fail)
    code, _, err = cli("report", zero_shot, "-o", tmp_path / "page.html", "--quick")
    assert code == 1
    assert "Can the probabilities be trusted?' is missing from the page" in err
    made = Page((tmp_path / "page.html").read_text())
    assert "Not here: making it failed (RuntimeError: no <ink> left)." in made.text
    assert "confusion matrix" in made.text.lower()


def test_an_unreadable_photo(cli: Cli, zero_shot: Path, photo_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(photo_folder, tmp_path / "photos")
    (tmp_path / "photos" / "test" / "white_cat" / "test-0.png").write_bytes(b"no picture")
    line = ("report", zero_shot, tmp_path / "photos", "-o", tmp_path / "page.html", "--quick")
    code, _, err = cli(*line)
    assert code == 2
    assert "1 of 16 pictures cannot be used" in err
    assert not (tmp_path / "page.html").exists()
    assert cli(*line, "--bad-images", "skip", "--json").document["numbers"]["images"] == 15
    assert "15 photos; 1 more cannot be read and are left out" in Page((tmp_path / "page.html").read_text()).text


# Wrong usage


@pytest.mark.parametrize(("line", "words"), [
    ("report absent", "There is no adapter or run 'absent'."),
    ("report {photos}", "is neither an adapter (no adapter.json) nor the results of a benchmark"),
    ("report {photos}/../photos/test/white_cat/test-1.jpg", "is not the record of a run"),
    ("report {above}", "'adapter', which is one: give"),
    ("report {adapter} absent", "There is no 'absent'"),
    ("report {adapter} --split dev", "Unknown split of 'photos' 'dev'"),
    ("report {adapter} --noises tipo", "Did you mean 'typo'?"),
    ("report {adapter} --noises blur", "'blur' is one of pictures"),
    ("report {adapter} -o {photos}", "is a folder; give a file for the output"),
    ("report {adapter} -o {adapter}/adapter.json/page.html", "is a file; give a folder for the output"),
])  # fmt: skip
@pytest.mark.usefixtures("no_model")
def test_wrong_usage(line: str, words: str, refused: Refused, small_adapter: Path, photo_folder: Path) -> None:
    places = {"adapter": small_adapter, "photos": photo_folder, "above": small_adapter.parent}
    assert words in refused(*(word.format(**places) for word in line.split()))


@pytest.mark.usefixtures("no_model")
def test_only_earlier_pages_are_replaced(refused: Refused, small_adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.html").write_text("<!DOCTYPE html><p>my own notes")
    message = refused("report", small_adapter, "-o", tmp_path / "notes.html")
    assert "notes.html' is there already and is not a page that anprompt wrote: name another for --out." in message
    assert "is the name of a picture" in refused("report", small_adapter, "--out", "new.PNG")


@pytest.mark.usefixtures("no_model")
def test_data_that_have_moved(refused: Refused, small_adapter: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(small_adapter, folder)
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text("\n".join("data: elsewhere" if line.startswith("data:") else line
                                                  for line in text.splitlines()))  # fmt: skip
    message = refused("report", folder)
    assert "The data of" in message
    assert f"Say where they are now: anprompt report {folder} DATA" in message


# Numbers


def test_curves_come_from_the_log_or_the_record(small_adapter: Path, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(small_adapter, folder)
    from_log = losses(look_at(folder))
    with (folder / "training" / "log.jsonl").open("a") as file:
        file.write('{"epoch": 2, "st')  # a kill cut the line off
    assert losses(look_at(folder)) == from_log
    shutil.rmtree(folder / "training")
    from_record = losses(look_at(folder))
    assert len(from_log) == len(from_record) == 2
    for a, b in zip(from_log, from_record, strict=True):
        assert {name: a[name] for name in b} == pytest.approx(b)


def test_no_negative_zero() -> None:
    assert [fixed(-0.04), fixed(-0.06), fixed(12.345, 2)] == ["0.0", "-0.1", "12.35"]
