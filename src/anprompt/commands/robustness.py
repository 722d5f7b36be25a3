"""The command that measures how far answers depend on the wording."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from anprompt.commands.packaged import backbone_for
from anprompt.errors import Problems, unknown_name

if TYPE_CHECKING:
    from anprompt.analysis.robustness import Noise
    from anprompt.clip import Backbone
    from anprompt.data import DataSource, Item
    from anprompt.methods import Method
    from anprompt.settings import Progress
    from anprompt.text import DescriptionBank
    from anprompt.text.noise import Material

STRENGTHS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)  # of the plot of accuracy over strength
RECORD = "robustness.json"
PLOTS = ("noise.png", "noise.svg", "strength.png", "strength.svg")
CURVE_WORDINGS = 2  # draws per point of it
EXPLAINED = """\
TS: 1 - cos of class weights, mean over classes (for noise of pictures: of image features). LPR: share of photos
whose answer stays. AS: accuracy points lost. In brackets: 95 % bootstrap intervals over classes, photos and, for
'right % with noise', wordings."""
SHOWN = 5  # classes in the list of sentences that hurt


def robustness(
    data: str | None = None,
    backbone: str | None = None,
    adapter: str | None = None,
    noises: str = "weak,drop,mask,shuffle,synonym,paraphrase",
    strength: float | None = None,
    wordings: int = 5,
    samples: int = 20,
    texts: str | None = None,
    synonyms: str | None = None,
    template: str | None = None,
    change_name: bool = False,
    subset: Literal["all", "base", "new"] = "all",
    data_root: str | None = None,
    bad_images: Literal["stop", "skip"] = "stop",
    device: str = "auto",
    seed: int = 1,
    out: str | None = None,
    json: bool = False,
) -> int:
    """How far answers depend on how classes are worded, for zero-shot and for adapters side by side.

    TS: mean of 1 - cos between a class's weights before and after. LPR: share of photos whose answer stays. AS:
    accuracy points lost. All with 95 % bootstrap intervals.

    Args:
        data: as for fit; its test photos are used. Without it: a list of all kinds of noise.
        backbone: as for fit; default: the adapters' own, else the miniature.
        adapter: folders that 'anprompt fit' wrote, separated by commas.
        noises: kinds of noise, each perhaps with its strength, as in drop:0.5.
        strength: 0 to 1, for the kinds without their own; default: the usual one of each kind.
        wordings: how often each noise is drawn.
        samples: most test photos per class.
        texts: file or folder with descriptions; zero-shot is then measured on them too, and paraphrases are its noise.
        synonyms: file of synonyms, or WordNet's folder; default: an installed WordNet, else a packaged list.
        template: sentence with {} for the class name, for zero-shot.
        change_name: let the noise change class names too.
        subset: all classes, the base half or the new half.
        data_root: folder that holds the benchmark data sets.
        bad_images: what to do with unreadable photos.
        device: auto, cpu, cuda (cuda:N where there are several) or mps.
        seed: decides every draw.
        out: folder for the record and the plots.
        json: print one JSON document.

    Examples:
        anprompt robustness
        anprompt robustness toyworld
        anprompt robustness photos --adapter my-adapter --out wording
        anprompt robustness photos --backbone openai/clip-vit-base-patch16 --noises weak:0.001,drop:0.5,typo
    """
    from anprompt.analysis import robustness as analysis
    from anprompt.data.draw import spread
    from anprompt.files import check_writable
    from anprompt.inputs import as_source
    from anprompt.outputs import check_outputs
    from anprompt.report import console
    from anprompt.results import make_record
    from anprompt.settings import bank_for
    from anprompt.text import check_template
    from anprompt.text.noise import Material, find_synonyms

    if data is None:
        return _list_noises(json)
    began = time.perf_counter()
    _check_numbers(wordings, samples, seed, strength)
    chosen = analysis.parse_noises(noises, strength)
    found = find_synonyms(synonyms)
    if template is not None:
        check_template(template)
    if out is not None:
        check_writable(Path(out))
        check_outputs(Path(out), PLOTS, RECORD)
    source = as_source(data, data_root=data_root).subset(subset)
    if "test" not in source.splits:
        raise unknown_name(f"split of '{source.name}'", "test", source.splits)
    if not source.splits["test"]:
        raise source.nothing_to_test("test")
    bank = bank_for(texts, source)
    folders = list(dict.fromkeys(map(str.strip, adapter.split(",")))) if adapter is not None else []
    frozen = _backbone(folders, backbone, data)
    items = spread(source.splits["test"], samples)
    wording = template or source.template
    material = Material(found, analysis.noise_sentences(bank, source.classes, wording))
    methods = _methods(source, bank if texts is not None else None, frozen, wording, folders, texts, device)
    with console.progress_bars() as progress:
        study = _Study(source, items, methods, material, wordings, seed, change_name, bad_images, progress)
        measured = [study.measure(noise) for noise in chosen]
        curves = study.curves(chosen) if out is not None else []
    order = [name for name, _ in methods]
    rows = sorted((row for own in measured for row in own), key=lambda row: order.index(row["method"]))
    config = {
        "data": source.name, "subset": subset, "backbone": frozen.weights_hash, "adapters": folders, "seed": seed,
        "noises": [noise._asdict() for noise in chosen], "wordings": wordings, "samples": samples, "texts": bank.source,
        "synonyms": found.source, "template": wording, "change_name": change_name,
    }  # fmt: skip
    tested = {
        "name": source.name, "images": len(study.read), "of": len(source.splits["test"]), "own_split": source.own_split,
        "classes": len(source.classes), "sha256": source.content_hash(study.read),
    }  # fmt: skip
    document = make_record(
        "robustness", config, data=tested, rows=rows, curves=curves, seconds=time.perf_counter() - began
    )
    written = _write(Path(out), document) if out is not None else []
    if json:
        console.print_json(document)
        return 0
    _say(document, written)
    return 0


def _check_numbers(wordings: int, samples: int, seed: int, strength: float | None) -> None:
    from anprompt.settings import LARGEST_SEED

    problems = Problems("These settings cannot be used:")
    for name, value, low in (("wordings", wordings, 1), ("samples", samples, 1), ("seed", seed, 0)):
        if value < low:
            problems.add(f"--{name} must be at least {low} (got {value})")
    if seed > LARGEST_SEED:
        problems.add(f"--seed must be at most {LARGEST_SEED} (got {seed})")
    if strength is not None and not 0 <= strength <= 1:
        problems.add(f"--strength must be from 0 to 1 (got {strength:g})")
    problems.raise_if_any()


def _backbone(folders: Sequence[str], given: str | None, data: str) -> Backbone:
    """The one backbone that all adapters belong to. :class:`UserError` if they do not share it."""
    from anprompt.adapter import own_backbone, read_document
    from anprompt.clip import load_backbone

    documents = [read_document(folder) for folder in folders]
    problems = Problems("These adapters cannot be compared:")
    for folder, document in zip(folders, documents, strict=True):
        if document["baked"]:
            problems.add(f"'{folder}' is baked: it keeps class vectors instead of sentences, so no wording matters")
        if document["backbone"]["weights_sha256"] != documents[0]["backbone"]["weights_sha256"]:
            problems.add(f"'{folder}' belongs to another backbone than '{folders[0]}'")
    problems.raise_if_any()
    if given is None and documents:
        return own_backbone(folders[0], documents[0])
    return load_backbone(backbone_for(given, [data]))


def _methods(
    source: DataSource, bank: DescriptionBank | None, backbone: Backbone, template: str, folders: Sequence[str],
    texts: str | None, device: str,
) -> list[tuple[str, Method]]:  # fmt: skip
    """Zero-shot on the template and, if there are descriptions, on these; then the adapters.

    Each adapter runs in its own precision, zero-shot in that of the first. No two of them have the same name.
    """
    from anprompt import methods
    from anprompt.classifier import PromptClassifier
    from anprompt.settings import find_device

    classes = list(source.classes)
    tuned: list[tuple[str, Method]] = []
    for folder in folders:
        method = PromptClassifier.load(folder, backbone, device=device, texts=texts).facing(source).method_
        alone = len(folders) == 1 and method.name != "zero-shot"
        tuned.append((method.name if alone else f"{method.name} ({folder})", method))
    backbone = tuned[0][1].backbone if tuned else backbone.in_precision("fp32", find_device(device))
    frozen = [("zero-shot", methods.create("zero-shot", backbone, classes, template=template))]
    if bank is not None and bank.main:
        described = methods.create("zero-shot", backbone, classes, texts=bank, template=template, text="descriptions")
        frozen.append(("zero-shot, descriptions", described))
    return [*frozen, *tuned]


class _Study:
    """Measures methods under noises, on pictures that are read once for all methods."""

    def __init__(
        self, source: DataSource, items: list[Item], methods: Sequence[tuple[str, Method]], material: Material,
        wordings: int, seed: int, change_name: bool, bad_images: str, progress: Progress,
    ) -> None:  # fmt: skip
        from anprompt.analysis.robustness import Subject

        self.source, self.read, self.methods, self.material = source, items, methods, material
        self.wordings, self.seed, self.change_name, self.bad_images = wordings, seed, change_name, bad_images
        self.progress = progress
        features = self._features(None, seed)
        self.labels = [item.label for item in self.read]
        self.subjects = [Subject(name, method, own) for (name, method), own in zip(methods, features, strict=True)]

    def measure(self, noise: Noise) -> list[dict[str, Any]]:
        """One row per method."""
        from anprompt.analysis.robustness import has_class_weights, measure
        from anprompt.settings import note

        drawn: list[list[Any]] = []
        if noise.level == "image":
            drawn = [self._features(noise, self.seed + draw) for draw in range(self.wordings)]
        rows: list[dict[str, Any]] = []
        for i, subject in enumerate(self.subjects):
            if noise.level == "feature" and not has_class_weights(subject.method):
                note(f"'{subject.name}' is left out of noise '{noise.name}': its logits come from no class weights")
                continue
            rows.append(measure(
                subject, self.labels, noise, self.material, wordings=self.wordings, seed=self.seed,
                change_name=self.change_name, noisy_features=[features[i] for features in drawn],
            ))  # fmt: skip
            self.progress(noise.name, i + 1, len(self.subjects), {})
        return rows

    def curves(self, noises: Sequence[Noise]) -> list[dict[str, Any]]:
        """Accuracy over strength, of every method and every noise of text or features."""
        from anprompt.analysis.robustness import curve, has_class_weights

        pairs = [
            (subject, noise) for subject in self.subjects for noise in noises
            if noise.level == "text" or (noise.level == "feature" and has_class_weights(subject.method))
        ]  # fmt: skip
        found = []
        for subject, noise in pairs:
            found.append(curve(
                subject, self.labels, noise, STRENGTHS, self.material, wordings=min(CURVE_WORDINGS, self.wordings),
                seed=self.seed, change_name=self.change_name,
            ))  # fmt: skip
            self.progress("accuracy over strength", len(found), len(pairs), {})
        return found

    def _features(self, noise: Noise | None, seed: int) -> list[Any]:
        """Image features of every method; unreadable photos are refused or left out from now on."""
        from anprompt.analysis.robustness import encode
        from anprompt.data import BadImage
        from anprompt.inference import refuse_bad
        from anprompt.settings import note

        bad: list[BadImage] = []
        total, stage = len(self.read), "photos" + (f" with {noise.name}, seed {seed}" if noise else "")
        self.read, features = encode(
            [method for _, method in self.methods], self.source, self.read, bad=bad, stop=self.bad_images == "stop",
            noise=noise, seed=seed, report=lambda done: self.progress(stage, done, total, {}),
        )  # fmt: skip
        if self.bad_images == "stop" or not self.read:
            refuse_bad(bad, total)
        if bad:
            note(f"{len(bad)} of {total} photos cannot be read and are left out")
        return features


def _write(folder: Path, document: dict[str, Any]) -> list[str]:
    """The record and the plots."""
    from anprompt.report.robustness_plots import save_curves, save_panels
    from anprompt.results import write_record

    data = document["data"]
    title = f"{data['name']}: {data['classes']} classes, {data['images']} photos"
    write_record(folder / RECORD, document)
    paths = save_panels(folder, title, document["rows"])
    if document["curves"]:
        paths += save_curves(folder, title, document["curves"])
    return [str(folder / RECORD), *map(str, paths)]


def _say(document: dict[str, Any], written: list[str]) -> None:
    from anprompt.commands.lists import counted
    from anprompt.report import console

    data, config, rows = document["data"], document["config"], document["rows"]

    def with_interval(found: dict[str, Any], digits: str) -> str:
        value, *ends = (
            text.lstrip("-") if float(text) == 0 else text  # no "-0.00"
            for text in (format(number, digits) for number in (found["value"], *(found["interval"] or ())))
        )
        return f"{value} [{', '.join(ends)}]" if ends else value

    shown = [
        (
            row["method"], f"{row['noise']} {row['strength']:g}", f"{row['clean_accuracy']:.1f}",
            with_interval(row["accuracy"], ".1f"), with_interval(row.get("text_shift") or row["image_shift"], ".2g"),
            with_interval(row["logit_preservation"], ".3f"), with_interval(row["accuracy_shift"], ".2f"),
        )
        for row in rows
    ]  # fmt: skip
    columns = ("method", "noise", "right %", "right % with noise", "TS", "LPR", "AS, points")
    console.table(
        f"{data['name']}: {data['classes']} classes, {data['images']} of {data['of']} test photos (at most "
        f"{config['samples']} a class), {counted(config['wordings'], 'wording')} of each noise",
        columns, shown, columns[2:],
    )  # fmt: skip
    hurting = sorted((entry | {"row": row} for row in rows for entry in row["per_class"] if entry["harm"] > 0),
                     key=lambda entry: -entry["harm"])  # fmt: skip
    if hurting:
        listed = [(entry["row"]["method"], entry["row"]["noise"], entry["class"], f"{entry['harm']:.2f}",
                   " | ".join(entry["sentences"])) for entry in hurting[:SHOWN]]  # fmt: skip
        heading = "The wordings that hurt most, each as the only change (points lost over all photos)"
        console.table(heading, ("method", "noise", "class", "points", "sentence"), listed, ("points",))
    if data["own_split"]:
        console.say(console.prose(f"The {data['of']} test photos were held out by anprompt: no test split was given."))
    console.say(console.prose(EXPLAINED))
    console.say(console.prose(f"Synonyms: {config['synonyms']}. Paraphrases and weak noise: {config['texts']}."))
    for path in written:
        console.say(f"Written: {path}")


def _list_noises(json: bool) -> int:
    """All kinds of noise, what they do, what strength means and where they are from."""
    from anprompt.analysis.image_noise import IMAGE_NOISES
    from anprompt.report import console
    from anprompt.text.noise import STRATEGIES

    rows: list[tuple[str, ...]] = [(s.name, s.level, s.about, s.strength, s.source) for s in STRATEGIES.values()]
    rows += [(n.name, "image", n.about, n.strength, "ANPrompt, Figure 3") for n in IMAGE_NOISES.values()]
    columns = ("noise", "changes", "what it does", "strength", "source")
    if json:
        console.print_json([dict(zip(columns, row, strict=True)) for row in rows])
        return 0
    console.table("", columns, rows)
    return 0
