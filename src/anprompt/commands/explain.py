"""The command that shows what an answer rests on, as Figure 7 of the paper does, with numbers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from anprompt.commands.packaged import MINIATURE, backbone_for
from anprompt.commands.use import class_list
from anprompt.errors import Problems, UserError, did_you_mean

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from anprompt.analysis.panels import Panel
    from anprompt.analysis.robustness import Noise
    from anprompt.clip import Backbone
    from anprompt.methods import Method
    from anprompt.text.noise import Synonyms

RECORD = "explain.json"
# What a sentence is compared with where nothing else is named (Kerr et al.: LERF, ICCV 2023).
ANYTHING = ("object", "things", "stuff", "texture")
EXPLAINED = """\
deletion: mean probability of the class while patches are removed, the most relevant first; below 'random' is better.
map r: correlation with the map without noise. Words: change of the class's logit, above 0 the word helps."""


def explain(
    images: list[str],
    adapter: str | None = None,
    backbone: str | None = None,
    classes: str | None = None,
    classes_file: str | None = None,
    class_: str | None = None,
    against: str | None = None,
    text: str | None = None,
    noise: str = "shuffle",
    change_name: bool = False,
    method: Literal["cam", "grad-cam", "rollout"] = "cam",
    orders: int = 10,
    template: str | None = None,
    synonyms: str | None = None,
    bad_images: Literal["stop", "skip"] = "stop",
    device: str = "auto",
    seed: int = 1,
    out: str = "explanation",
    json: bool = False,
) -> int:
    """What an answer rests on: maps of the picture for zero-shot and an adapter, with and without noise in the wording.

    With each map a deletion score, which says whether it means anything, and what each word of the class's text brings.

    Args:
        images: photos, folders of photos, or patterns such as 'pictures/*.jpg'.
        adapter: folder that 'anprompt fit' wrote; without it only zero-shot is shown.
        backbone: as for fit; default: the adapter's own, else the miniature.
        classes: classes to choose from, separated by commas; default: the adapter's, or those the miniature knows.
        classes_file: the same, one class per line.
        class_: class to explain; default: the predicted one.
        against: class to tell it from, as in "why this and not that"; default: all others.
        text: a sentence of your own to explain instead of a class.
        noise: kind of noise in the wording, perhaps with its strength, as in drop:0.5, or none.
        change_name: let the noise change class names too.
        method: cam is HiResCAM, grad-cam averages its gradients, rollout is attention whatever the class.
        orders: random orders that the deletion score compares with; 0 leaves it out, which is faster.
        template: sentence with {} for the class name, for zero-shot.
        synonyms: file of synonyms, or WordNet's folder; default: an installed WordNet, else a packaged list.
        bad_images: what to do with unreadable photos.
        device: auto, cpu, cuda (cuda:N where there are several) or mps.
        seed: decides the noise and the random orders.
        out: folder for the figures and the numbers.
        json: print one JSON document.

    Examples:
        anprompt explain photo.jpg --adapter my-adapter
        anprompt explain photo.jpg --adapter my-adapter --class tabby --against tiger --noise drop:0.5
        anprompt explain photo.jpg --backbone openai/clip-vit-base-patch16 --text "a dog that jumps"
    """
    from anprompt.analysis.panels import explain_picture
    from anprompt.clip import load_backbone
    from anprompt.files import check_writable
    from anprompt.inputs import as_pictures
    from anprompt.outputs import check_outputs
    from anprompt.report import console
    from anprompt.report.explain_figure import FORMATS, save_explanation
    from anprompt.results import make_record, write_record
    from anprompt.settings import find_device
    from anprompt.text import check_template
    from anprompt.text.noise import find_synonyms

    began = time.perf_counter()
    _check_numbers(orders, seed)
    chosen = _one_noise(noise)
    if class_ is not None and text is not None:
        raise UserError("Give --class or --text, not both: a text is explained in place of a class.")
    if class_ is not None and class_ == against:
        raise UserError(f"--against must be another class than --class (both are '{class_}').")
    if template is not None:
        check_template(template)
    found, paths = find_synonyms(synonyms), as_pictures(images)
    check_writable(Path(out))
    figures = _free_names(paths)
    check_outputs(Path(out), [f"{name}.{kind}" for name in figures for kind in FORMATS], RECORD, paths)
    names = _names(adapter, class_list(classes, classes_file), backbone, text, chosen is not None)
    _check_classes(names, class_, against, text)
    where = None if adapter is not None and backbone is None else backbone_for(backbone, list(map(str, paths)))
    loaded = None if where is None else load_backbone(where)
    methods, words = _methods(adapter, loaded, names, template, find_device(device))
    pictures = _read(list(zip(paths, figures, strict=True)), methods[-1][1].backbone, bad_images)
    panels = _panels(methods, text, chosen, found, seed, change_name)
    rows: list[dict[str, Any]] = []
    with console.progress_bars() as progress:
        for path, figure, crop in pictures:
            pixels = methods[-1][1].backbone.transform.normalise(crop)
            label, other = _columns(panels, pixels, path, names, class_, against, text)
            row = explain_picture(panels, pixels, label, other, kind=method, orders=orders, seed=seed, words=words)
            written = save_explanation(Path(out), figure, crop.permute(1, 2, 0).numpy(), row)
            rows.append({"path": str(path), "figures": [str(file) for file in written], **row})
            progress("explaining", len(rows), len(pictures), {})
    config = {
        "adapter": adapter, "backbone": methods[0][1].backbone.weights_hash, "class": class_, "against": against,
        "text": text, "noise": None if chosen is None else chosen._asdict(), "change_name": change_name,
        "method": method, "orders": orders, "synonyms": found.source, "seed": seed, "classes": names,
    }  # fmt: skip
    document = make_record("explain", config, images=rows, seconds=time.perf_counter() - began)
    write_record(Path(out) / RECORD, document)
    if json:
        console.print_json(document)
        return 0
    _say(document, Path(out) / RECORD)
    return 0


def _check_numbers(orders: int, seed: int) -> None:
    from anprompt.settings import LARGEST_SEED

    problems = Problems("These settings cannot be used:")
    for name, value in (("orders", orders), ("seed", seed)):
        if value < 0:
            problems.add(f"--{name} must be at least 0 (got {value})")
    if seed > LARGEST_SEED:
        problems.add(f"--seed must be at most {LARGEST_SEED} (got {seed})")
    problems.raise_if_any()


def _one_noise(spec: str) -> Noise | None:
    """The noise in the wording that was asked for; ``None`` for ``"none"``."""
    from anprompt.analysis.robustness import parse_noises

    if spec == "none":
        return None
    chosen = parse_noises(spec)
    if len(chosen) > 1:
        raise UserError(f"--noise takes one kind of noise, or none (got '{spec}').")
    if chosen[0].level == "image":
        raise UserError(f"--noise is about the wording, and '{chosen[0].name}' changes pictures; 'anprompt robustness' "
                        "lists the others.")  # fmt: skip
    return chosen[0]


def _names(
    adapter: str | None, given: list[str] | None, backbone: str | None, text: str | None, noisy: bool
) -> list[str]:
    """The classes to choose from. :class:`UserError` if nothing says which, or a baked adapter cannot be reworded."""
    from anprompt.adapter import read_document
    from anprompt.data.toyworld import class_names

    if adapter is not None:
        document = read_document(adapter)
        if document["baked"] and noisy:
            raise UserError(f"'{adapter}' is baked: it keeps class vectors instead of sentences, so noise in the "
                            "wording cannot be shown; --noise none leaves it out.")  # fmt: skip
        return given or [name for block in document["class_blocks"] for name in block["names"]]
    if given is None and backbone in (None, MINIATURE):
        return list(class_names("shapes"))
    if given is None and text is None:
        raise UserError(f"Nothing says between which classes '{backbone}' chooses: give --classes, --classes-file, "
                        "--text or --adapter.")  # fmt: skip
    return given or list(ANYTHING)


def _check_classes(names: Sequence[str], class_: str | None, against: str | None, text: str | None) -> None:
    problems = Problems("This cannot be explained:")
    for option, name in (("--class", class_), ("--against", against)):
        if name is not None and name not in names:
            problems.add(f"{option} '{name}' is none of the {len(names)} classes.{did_you_mean(name, names)}")
    if text is not None and not text.strip():
        problems.add("--text is empty")
    elif text in names:
        problems.add(f"--text '{text}' is one of the classes: name it with --class")
    problems.raise_if_any()


def _methods(
    adapter: str | None, backbone: Backbone | None, names: list[str], template: str | None, device: torch.device
) -> tuple[list[tuple[str, Method]], bool]:
    """Zero-shot, then the adapter, over the same classes; and whether words can be left out of what the last reads."""
    from anprompt import methods
    from anprompt.classifier import PromptClassifier
    from anprompt.text import DEFAULT_TEMPLATE

    if adapter is None:
        assert backbone is not None
        placed = backbone.in_precision("fp32", device)
        return [("zero-shot", methods.create("zero-shot", placed, names, template=template or DEFAULT_TEMPLATE))], True
    estimator = PromptClassifier.load(adapter, backbone, device=device)
    if estimator.method_.class_names != names:
        estimator = estimator.with_classes(names)
    tuned = estimator.method_
    frozen = methods.create("zero-shot", tuned.backbone, names, template=template or tuned.template)
    return [("zero-shot", frozen), (tuned.name, tuned)], not estimator.record_["baked"]


def _read(named: Sequence[tuple[Path, str]], backbone: Backbone, bad_images: str) -> list[tuple[Path, str, Tensor]]:
    """Each readable picture, its figure's name, and what the tower sees of it: uint8 ``(3, H, W)``."""
    from anprompt.data import BadImage
    from anprompt.inference import refuse_bad
    from anprompt.report import console

    bad: list[BadImage] = []
    pictures = []
    for path, figure in named:
        try:
            pictures.append((path, figure, backbone.transform.pixels_uint8(path)))
        except BadImage as error:
            bad.append(error)
    if bad_images == "stop" or not pictures:
        refuse_bad(bad, len(named))
    for left in bad:
        console.note(f"left out: {left}")
    return pictures


def _panels(
    methods: Sequence[tuple[str, Method]], text: str | None, noise: Noise | None, synonyms: Synonyms, seed: int,
    change_name: bool,
) -> list[Panel]:  # fmt: skip
    from anprompt.analysis.explain import with_sentence
    from anprompt.analysis.panels import Panel
    from anprompt.analysis.robustness import noise_sentences, reworded
    from anprompt.text.noise import Material

    panels = []
    for name, method in methods:
        clean = method if text is None else with_sentence(method, text)
        panels.append(Panel(name, None, clean))
        if noise is not None:
            material = Material(synonyms, noise_sentences(clean.bank, clean.class_names, clean.template))
            panels.append(Panel(name, noise, reworded(clean, noise, seed, material, change_name)))
    return panels


def _columns(
    panels: Sequence[Panel], pixels: Tensor, path: Any, names: Sequence[str], class_: str | None, against: str | None,
    text: str | None,
) -> tuple[int, int | None]:  # fmt: skip
    """The column to explain, by default what the last method without noise predicts, and the one to tell it from."""
    if text is not None:
        label = len(names)
    elif class_ is not None:
        label = names.index(class_)
    else:
        method = [panel for panel in panels if panel.noise is None][-1].method
        label = int(method.logits(pixels[None].to(method.backbone.device)).argmax())
    other = None if against is None else names.index(against)
    if other == label:
        raise UserError(f"--against '{against}' is what is predicted for '{path}': name another one, or a --class.")
    return label, other


def _free_names(paths: Sequence[Path]) -> list[str]:
    """A file name for each picture's figure; pictures of one name get numbers, and no other picture's name."""
    stems = [path.stem for path in paths]
    counts = Counter(stems)
    taken, names = {stem for stem in stems if counts[stem] == 1}, []
    for stem in stems:
        name = stem
        if counts[stem] > 1:
            name = next(free for i in count(1) if (free := f"{stem}-{i}") not in taken)
            taken.add(name)
        names.append(name)
    return names


def _say(document: dict[str, Any], record: Path) -> None:
    from anprompt.report import console

    for row in document["images"]:
        against = f" and not {row['against']}" if row["against"] else ""
        shown = []
        for panel in row["panels"]:
            noise, score = panel["noise"], panel["deletion"]
            shown.append((
                panel["method"], f"{noise['name']} {noise['strength']:g}" if noise else "–", panel["predicted"],
                f"{100 * panel['probability']:.1f}", "–" if panel["likeness"] is None else f"{panel['likeness']:.2f}",
                *([f"{score[key]:.3f}" for key in ("area", "random_area")] if score else ("–", "–")),
                score["words"] if score else "–",
            ))  # fmt: skip
        columns = ("method", "noise", "predicted", "p of class %", "map r", "deletion", "random", "the map")
        title, spare = f"{row['path']}: why {row['class']}{against}?", ("map r", "random", "deletion")
        console.table(title, columns, shown, columns[3:7], spare)
        for sentence in row["words"]["sentences"]:
            brought = ", ".join(f"{word['word']} {word['logit']:+.1f}" for word in sentence["words"])
            console.say(console.prose(f"Words ({row['words']['method']}): {brought}", 2))
        if not row["words"]["sentences"]:
            console.say(f"Words: leaving them out does not change what {row['words']['method']} answers.")
        console.say(f"Figure: {row['figures'][0]}\n")
    console.say(console.prose(EXPLAINED))
    console.say(f"Written: {record}")
