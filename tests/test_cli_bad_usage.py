"""Wrong usage: found before anything is opened; exit code 2, one message with the nearest valid name."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers_cli import Cli, Refused

USAGE = [
    ("fti", "There is no command 'fti'. Did you mean 'fit'?"),
    ("--verison", "There is no option '--verison'. Did you mean '--version'?"),
    ("fit", "'anprompt fit' needs DATA"),
    ("evaluate a", "'anprompt evaluate' needs DATA"),
    ("predict a", "'anprompt predict' needs INPUTS"),
    ("fit d e", "'anprompt fit' takes DATA; 'e' is too much."),
    ("fit d --bakbone x", "'anprompt fit' has no option '--bakbone'. Did you mean '--backbone'?"),
    ("fit d --bad-imags=skip", "'anprompt fit' has no option '--bad-imags'. Did you mean '--bad-images'?"),
    ("fit d --back x", "'anprompt fit' has no option '--back'."),
    ("fit d --option.alpha 1", "Did you mean '--options'?"),
    ("fit d -s 4", "'anprompt fit' has no option '-s'."),
    ("fit d --epochs 2", "'anprompt fit' has no option '--epochs'. Did you mean '--recipe.epochs'?"),
    ("fit d --epoch 2", "Did you mean '--recipe.epochs'?"),
    ("fit d --batch-size 2", "Did you mean '--recipe.batch'?"),
    ("fit d --lr 2", "Did you mean '--recipe.lr'?"),
    ("fit d --alpha 2", "Did you mean '--options.alpha'?"),
    ("fit d --method coop --n-ctx 2", "'anprompt fit' has no option '--n-ctx'."),
    (
        "bench --epochs 2",
        "has no option '--epochs'. 'epochs' belongs to the training recipe: write it into a YAML file",
    ),
    ("fit d --shots", "--shots needs a value"),
    ("fit d --shots x", "--shots must be a whole number (got 'x')."),
    ("fit d --shots 2.5", "--shots must be a whole number (got '2.5')."),
    ("fit d --shots 0", "'shots' must be a whole number of at least 1 (got 0)"),
    ("fit d --seed -1", "'random_state', the seed, must be a whole number of at least 0 (got -1)"),
    ("fit d --seed 4294967296", "'random_state', the seed, must be at most 4294967295 (got 4294967296)"),
    ("explain p.png --seed 4294967296", "--seed must be at most 4294967295 (got 4294967296)"),
    ("robustness d --seed 99999999999999999999", "--seed must be at most 4294967295 (got 99999999999999999999)"),
    ("fit d --subset bases", "--subset must be one of all, base, new (got 'bases'). Did you mean 'base'?"),
    ("fit d --storage fp8", "--storage must be one of fp16, fp32 (got 'fp8')."),
    ("fit d --bad-images skp", "--bad-images must be one of stop, skip (got 'skp'). Did you mean 'skip'?"),
    ("fit d --json=1", "--json is a switch and takes no value"),
    ("fit d --options 3", "--options takes single entries, as in --options.NAME VALUE (got '3')."),
    ("fit d --method anpromt", "Unknown method 'anpromt'. Did you mean 'anprompt'?"),
    ("fit d --preset papr", "Unknown anprompt preset 'papr'. Did you mean 'paper'?"),
    ("fit d --options.alhpa 1", "Options of method 'anprompt': unknown option 'alhpa'. Did you mean 'alpha'?"),
    ("fit d --options.alpha -1", "'alpha' must be at least 0 (got -1)"),
    ("fit d --options.alpha x", "'alpha' must be a number (got 'x')"),
    ("fit d --options.theta 2", "'theta' must be at least 0 and at most 1 (got 2)"),
    ("fit d --options.gamma sdt", "'gamma' must be one of std, log, mean, entropy. Did you mean 'std'?"),
    ("fit d --recipe.epoch 3", "Options of the recipe: unknown option 'epoch'. Did you mean 'epochs'?"),
    ("fit d --recipe.batch 0", "'batch' must be at least 1"),
    ("predict a x.jpg --top 0", "--top must be at least 1 (got 0)."),
    ("predict a x.jpg --classes a", "--classes must name at least 2 classes to choose from (got 1)."),
    ("predict a x.jpg --classes a,b,a,", "The class names in --classes cannot be used:"),
    ("predict a x.jpg --classes a,b --classes-file f", "Give --classes or --classes-file, not both."),
    ("predict a x.jpg --classes-file absent.txt", "Cannot read the class list 'absent.txt'"),
    ("predict a x.jpg --texts t", "--texts describes other classes: name them with --classes or --classes-file."),
    ("predict a absent.jpg", "'absent.jpg'"),
    ("demo --seeds 0", "--seeds must be at least 1 (got 0)."),
    ("demo --data toyworld:nigth", "Did you mean 'night'?"),
    ("methods anpromt", "Unknown method 'anpromt'. Did you mean 'anprompt'?"),
    ("fit d --config absent.yaml", "There is no configuration file 'absent.yaml'."),
]


@pytest.mark.parametrize(("line", "words"), USAGE, ids=[line for line, _ in USAGE])
@pytest.mark.usefixtures("no_model")
def test_usage(line: str, words: str, refused: Refused) -> None:
    message = refused(*line.split())
    assert words in message
    assert len(message.splitlines()) == (3 if "a,b,a" in line else 1)


@pytest.mark.parametrize("option", ["--verbose", "--quiet", "--workers"])
@pytest.mark.usefixtures("no_model")
def test_nothing_is_suggested_where_nothing_is_near(option: str, refused: Refused) -> None:
    assert refused("fit", "d", option).strip().endswith(f"has no option '{option}'.")


def test_a_path_that_is_not_there_is_not_compared_with_anything_at_all(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "compare").mkdir()
    monkeypatch.chdir(tmp_path)
    message = refused("fit", "nope")
    assert message.count("nope") == 1
    assert "Did you mean" not in message


LONG = ",".join(f"class number {i}" for i in range(30))  # no file may have so long a name
PATHS = [
    (("check", "~no-such-user/photos"), "There is no '~no-such-user' in "),
    (("fit", "~no-such-user"), "There is no '~no-such-user' in "),
    (("check", "eurosat", "--data-root", "~no-such-user"), "There is no folder ~no-such-user"),
    (("fit", "d", "--cache", "~no-such-user/cache"), "There is no 'd' in "),
    (("info", "~no-such-user/model"), "Backbone '~no-such-user/model': no such file or folder"),
    (("check", LONG), f"There is no '{LONG}'"),
    (("describe", LONG.replace(",", " ")), "There is no 'class number 0 class number 1 "),
    (("describe", "a,b", "--texts", LONG.replace(",", " ")), "There is no file with texts"),
    (("check", "toyworld", "--texts", LONG), "No such file or folder with texts"),
    (("predict", LONG, "p.png"), "No picture found at 'p.png'"),
    (("report", LONG), "File name too long"),
]


@pytest.mark.parametrize(("line", "words"), PATHS, ids=[" ".join(line)[:30] for line, _ in PATHS])
def test_paths_at_which_pathlib_fails(line: tuple[str, ...], words: str, cli: Cli, tmp_path: Path) -> None:
    code, out, err = cli(*line)
    assert (code, "Traceback" in err) == (2, False)
    assert words in out + err


def test_all_unknown_options_at_once(refused: Refused) -> None:
    message = refused("fit", "d", "--shost", "1", "--seeed", "2")
    assert "Did you mean '--shots'?" in message
    assert "Did you mean '--seed'?" in message


YAML = [
    (
        "shots: 4\nshotz: 3\nsede: 1\n",
        ["line 2: ", "'shotz'. Did you mean 'shots'?", "line 3: ", "Did you mean 'seed'?"],
    ),
    ("epochs: 3\nalpha: 1\n", ["'epochs'. Did you mean 'epochs' under 'recipe:'?", "'alpha' under 'options:'?"]),
    ("shots: 4\nbad-images: stop\nbad_images: skip\n", ["line 3: 'bad_images' is already set on line 2."]),
    ("shots: [4\nseed", ["'run.yaml', line 2, column 5: not valid YAML"]),
    ("- shots\n", ["'run.yaml' must hold lines such as 'shots: 4'"]),
    ("shots: many\n", ["'shots' in 'run.yaml' must be a whole number (got 'many')."]),
    ("subset: bases\n", ["'subset' in 'run.yaml' must be one of all, base, new (got 'bases'). Did you mean 'base'?"]),
    ("json: maybe\n", ["line 1: 'json' must be true or false (got 'maybe')."]),
    ("data: [d]\n", ["line 1: 'data' must be text"]),
    ("backbone: [a, b]\n", ["'backbone' in 'run.yaml' must be text (got"]),
    ("options:\n  alhpa: 1\n", ["unknown option 'alhpa'. Did you mean 'alpha'?"]),
    ("options: 3\n", ["'options' in 'run.yaml' takes single entries"]),
    ("\x00", ["'run.yaml' is not valid YAML"]),
]


@pytest.mark.parametrize(("text", "words"), YAML)
@pytest.mark.usefixtures("no_model")
def test_configurations(text: str, words: list[str], refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(text)
    message = refused("fit", "d", "--config", "run.yaml")
    assert all(word in message for word in words), message
