"""``anprompt bench`` from the command line: records, resuming, sharing, refusing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps

from anprompt.protocols import benchmark
from anprompt.protocols.execute import Done, bring_back
from anprompt.protocols.executors import run_serial
from anprompt.protocols.plan import _Known, open_source
from anprompt.results import make_record, write_record
from anprompt.training import capacity, memory
from anprompt.training.memory import GIB
from helpers_bench import QUICK, lasting, records
from helpers_cli import Cli, Refused, contents


@pytest.fixture
def bench(cli: Cli, small_clip: Path, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``bench(option, value, …)`` on the four classes of coloured photos, with two epochs; gives the outcome."""
    monkeypatch.chdir(tmp_path)
    Path("quick.yaml").write_text(QUICK)

    def run(*more: object) -> Any:
        return cli("bench", "--backbone", small_clip, "--datasets", photo_folder, "--recipe", "quick.yaml",
                   "--seeds", "1", "--threads", "1", *more)  # fmt: skip

    return run


def test_base_to_new_writes_a_record_per_evaluation(bench: Any, small_clip: Path) -> None:
    code, out, err = bench()
    assert code == 0, err
    found = records()
    assert sorted(found) == ["photos-base", "photos-base-2shots-seed1", "photos-new", "photos-new-2shots-seed1"]
    tuned = found["photos-new-2shots-seed1"]
    config = tuned["config"]
    assert (config["protocol"], config["method"], config["recipe"]) == ("base-to-new", "anprompt", "quick/base-to-new")
    assert (config["subset"], config["target_subset"], config["shots"], config["seed"]) == ("base", "new", 2, 1)
    assert config["settings"]["recipe"]["epochs"] == 2
    assert tuned["images"] == 8
    assert set(tuned["per_class"]) == {"red square", "white cat"}
    assert tuned["fit"]["images"] == 4
    assert tuned["backbone"]["source"] == small_clip.name
    assert found["photos-base"]["config"]["seed"] is None
    assert str(small_clip.parent) not in json.dumps(found)
    assert "photos" in out  # the table


def test_what_is_done_is_not_done_again(bench: Any) -> None:
    bench()
    before = contents(Path("results"))
    code, _, err = bench()
    assert code == 0
    assert "4 evaluations, 4 of them done already; 0 runs to do" in err
    assert contents(Path("results")) == before


def test_other_photos_of_the_same_names_are_other_data(bench: Any, photo_folder: Path) -> None:
    shutil.copytree(photo_folder, "v1/birds")
    shutil.copytree("v1/birds", "copy/birds")
    chosen = ("--methods", "zero-shot,anprompt", "--datasets")
    assert bench(*chosen, "v1/birds").code == 0
    assert "4 of them done already; 0 runs to do" in bench(*chosen, "copy/birds").err  # where they lie does not count
    for file in Path("v1/birds/test").rglob("*.*"):
        with Image.open(file) as photo:
            ImageOps.invert(photo).save(file)
    code, _, err = bench(*chosen, "v1/birds")  # zero-shot and new evaluations of the old training
    assert code == 0, err
    assert "0 of them done already; 2 runs to do" in err
    assert "training" not in err
    for file in Path("v1/birds/train").rglob("*.*"):
        with Image.open(file) as photo:
            ImageOps.invert(photo).save(file)
    code, _, err = bench(*chosen, "v1/birds")
    assert code == 0, err
    assert "2 of them done already; 1 runs to do" in err
    assert len(list(Path("results/adapters").iterdir())) == 2


@pytest.mark.real
def test_published_photos_are_known_by_their_names(real: Path) -> None:
    """A million files are not read for it, and records that were published stay valid."""
    root, folder = real / "coop-data", Path(__file__).parents[1] / "docs" / "records" / "bench-texts" / "base-to-new"
    published = json.loads(next(folder.glob("anprompt/eurosat-new-16shots-seed1-ba572650.json")).read_text())
    known = _Known({"eurosat": open_source("eurosat", str(root))}, None)
    settings = published["config"]["settings"]
    assert [known.listing("eurosat", split) for split in ("train", "test")] == [settings["train"], settings["target"]]


def test_a_missing_or_damaged_record_is_made_again_from_the_adapter(bench: Any) -> None:
    bench("--methods", "anprompt")
    first = lasting()
    new, base = (next(Path("results/records").rglob(f"photos-{half}-*.json")) for half in ("new", "base"))
    new.unlink()
    base.write_text('{"config_sha256": "')
    code, _, err = bench("--methods", "anprompt")
    assert code == 0, err
    assert "training" not in err  # the adapter is there
    assert lasting() == first


def test_a_damaged_record_is_replaced_by_what_comes_back(tmp_path: Path) -> None:
    made = make_record("bench", {"seed": 1}, accuracy=50.0)
    places = [tmp_path / name for name in ("damaged.json", "there.json", "new.json")]
    places[0].write_text(json.dumps(made)[:60])
    write_record(places[1], {**made, "accuracy": 60.0})
    bring_back(Done({place.name: made for place in places}), tmp_path)
    assert [json.loads(place.read_text())["accuracy"] for place in places] == [50.0, 60.0, 50.0]


def test_processes_give_the_same_records(bench: Any) -> None:
    bench("--out", "one")
    code, _, err = bench("--out", "two", "--jobs", "2")
    assert code == 0, err
    assert lasting("one") == lasting("two")


def test_runs_at_the_same_time_share_the_memory(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (capacity, memory):
        monkeypatch.setattr(module, "memory_in_use", lambda device: GIB)
    monkeypatch.setattr(capacity, "_free", lambda device: 8 * GIB)
    monkeypatch.setattr(benchmark, "run_processes", lambda work, tasks, jobs, threads: run_serial(work, tasks))
    code, _, err = bench("--methods", "anprompt", "--seeds", "1,2", "--jobs", 3)  # two runs: half each
    assert code == 0, err
    fits = [json.loads(file.read_text()) for file in Path("results/adapters").glob("*/record.json")]
    assert [fit["memory"]["limit"] for fit in fits] == [GIB + int(0.8 * 4 * GIB)] * 2
    assert not capacity.is_shared()


def test_few_shot_and_discarded_adapters(bench: Any) -> None:
    code, _, err = bench("--protocol", "few-shot", "--shots", "1,2", "--methods", "anprompt", "--discard")
    assert code == 0, err
    assert sorted(records()) == ["photos-all-1shots-seed1", "photos-all-2shots-seed1"]
    assert not list(Path("results/adapters").iterdir())


def test_transfers_train_once(bench: Any, photo_folder: Path) -> None:
    shutil.copytree(photo_folder, "darker")
    both = f"{photo_folder},darker"
    code, _, err = bench("--protocol", "domain-generalisation", "--source", photo_folder, "--datasets", both,
                         "--methods", "anprompt")  # fmt: skip
    assert code == 0, err
    assert sorted(records()) == ["photos-all-2shots-seed1", "photos-darker-all-2shots-seed1"]
    code, _, err = bench("--protocol", "cross-dataset", "--source", photo_folder, "--datasets", both,
                         "--methods", "anprompt")  # fmt: skip
    assert code == 0, err
    assert "training" not in err
    assert len(list(Path("results/adapters").iterdir())) == 1
    assert len(list(Path("results/records").rglob("*.json"))) == 4


def test_an_ablation_names_its_variants_and_trains_and_decides_by_them(bench: Any) -> None:
    code, _, err = bench("--protocol", "ablation", "--methods", "anprompt", "--vary.alpha", "0.001,0.5",
                         "--vary.theta", "0.2,1.0", "--vary.recipe.lr", "0.01", "--ablation", "mine",
                         "--seeds", 2)  # fmt: skip
    assert code == 0, err
    written = [json.loads(path.read_text()) for path in Path("results/records").rglob("*.json")]
    found = [record["config"] for record in written]
    assert sorted(config["variant"]["alpha"] for config in found) == [0.001] * 4 + [0.5] * 4
    assert {config["settings"]["recipe"]["lr"] for config in found} == {0.01}
    assert {config["ablation"] for config in found} == {"mine"}
    decisions = {(record["config"]["variant"]["theta"], record["decision"]) for record in written}
    assert decisions == {(0.2, "0.2·ℓ_A + 0.8·ℓ_R"), (1.0, "1·ℓ_A + 0·ℓ_R")}
    fits = [json.loads(path.read_text()) for path in Path("results/adapters").glob("*/adapter.json")]
    trained = [(fit["seed"], fit["data"]["subset"], fit["data"]["shots"], fit["recipe"]["lr"]) for fit in fits]
    assert trained == [(2, "base", 2, 0.01)] * 2
    assert {fit["options"]["alpha"] for fit in fits} == {0.001, 0.5}


@pytest.mark.slow
def test_what_only_decides_is_trained_once(bench: Any) -> None:
    ablation = ("--protocol", "ablation", "--methods", "anprompt", "--ablation", "VIII")
    code, _, err = bench(*ablation, "--vary.theta", "0.1,1.0")
    assert code == 0, err
    assert len(list(Path("results/adapters").iterdir())) == 1
    assert "base theta 0.1 " in err
    written = [json.loads(path.read_text()) for path in Path("results/records").rglob("*base*.json")]
    together = {record["config"]["variant"]["theta"]: record for record in written}
    assert [together[theta]["decision"][:7] for theta in (0.1, 1.0)] == ["0.1·ℓ_A", "1·ℓ_A +"]
    for theta in (0.1, 1.0):  # each on its own: in a folder where nothing is shared
        code, _, err = bench(*ablation, "--vary.theta", theta, "--out", f"alone-{theta}")
        assert code == 0, err
        alone = [json.loads(path.read_text()) for path in Path(f"alone-{theta}/records").rglob("*base*.json")]
        assert [record["per_class"] for record in alone] == [together[theta]["per_class"]]
        assert [record["config"] for record in alone] == [together[theta]["config"]]
    code, _, err = bench(*ablation, "--vary.theta", "0.1,1.0", "--vary.theta_in_loss", "true", "--out", "in-loss")
    assert code == 0, err
    assert len(list(Path("in-loss/adapters").iterdir())) == 2


def test_dry_run_says_time_and_disk_and_writes_nothing(bench: Any) -> None:
    before = contents(Path())
    code, out, _ = bench("--dry-run")
    assert code == 0
    assert "runs to do         2" in out
    assert "minutes one after the other" in out
    assert "disk, kept" in out
    assert contents(Path()) == before
    outcome = bench("--dry-run", "--methods", "prograd,coprompt,bip", "--json")  # what batches and photos they ask for
    assert outcome.document["by_method"].keys() == {"prograd", "coprompt", "bip"}, outcome.err
    closed = bench("--dry-run", "--methods", "linear-probe,tip-adapter", "--protocol", "few-shot", "--json").document
    assert closed["by_method"].keys() == {"linear-probe", "tip-adapter"}
    outcome = bench("--dry-run", "--json")
    assert (outcome.document["runs"], outcome.document["evaluations"], outcome.document["done"]) == (2, 4, 0)
    assert outcome.document["seconds"] > 0
    assert outcome.document["bytes_kept"] > 0


def test_one_failing_run_does_not_stop_the_others(bench: Any) -> None:
    Path("quick.yaml").write_text(QUICK.replace("epochs: 2", "lr: 1.0e+30, warmup_epochs: 0, epochs: 2"))
    code, _, err = bench("--methods", "anprompt,zero-shot")
    assert code == 2
    assert "Training stopped" in err
    assert "Traceback" not in err
    assert sorted(records()) == ["photos-base", "photos-new"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--methods", "anpromt"], "Did you mean 'anprompt'?"),
        (["--datasets", "nowhere"], "There is no 'nowhere'"),
        (["--seeds", "1,two"], "--seeds takes whole numbers, separated by commas: 'two' is none"),
        (["--jobs", "0"], "--jobs and --threads must be at least 1"),
        (["--executor", "ray", "--jobs", "2"], "--jobs is for this machine"),
        (["--protocol", "few-shots"], "Did you mean 'few-shot'?"),
        (["--protocol", "ablation", "--vary.alhpa", "1", "--methods", "anprompt"], "Did you mean 'alpha'?"),
        (["--protocol", "domain-generalisation", "--source", "toyworld:photo"], "has classes that"),
    ],
)
def test_mistakes_are_found_before_anything_is_trained(
    refused: Refused, small_clip: Path, photo_folder: Path, arguments: list[str], part: str
) -> None:
    given = ["--datasets", photo_folder] if "--datasets" not in arguments else []
    assert "or say with --data-root" in refused("bench")
    assert part in refused("bench", "--backbone", small_clip, *given, *arguments)


def test_recipes_are_listed_and_shown(cli: Cli) -> None:
    code, out, _ = cli("recipes")
    assert code == 0
    assert "matched" in out
    assert "anprompt" in out
    assert "epochs: 10" in cli("recipes", "anprompt").out
    assert cli("recipes", "anprompt", "--json").document["anprompt"]["protocols"]["base-to-new"]["shots"] == [16]
    assert "Did you mean 'matched'?" in cli("recipes", "match").err
