"""What happens when an estimator is fitted: check everything, read the photos, train, and say what was done."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anprompt import methods
from anprompt.adapter import round_to_storage
from anprompt.clip.cache import ActivationCache
from anprompt.clip.precision import Choice, choose_precision, suitable_threads
from anprompt.data import DataSource, Item, draw_few_shot, short_classes
from anprompt.errors import UserError
from anprompt.files import check_writable, locked, sha256_json
from anprompt.inputs import as_source
from anprompt.methods import Method, find_preset
from anprompt.outputs import check_foreign
from anprompt.results import make_record
from anprompt.settings import (
    Progress,
    bank_for,
    benchmark_options,
    cache_for,
    caching,
    check_settings,
    find_device,
    listed,
    loaded,
    note,
)
from anprompt.text import fill
from anprompt.training import (
    WRITTEN,
    FrozenPhotos,
    MemoryPlan,
    Recipe,
    TrainingImages,
    TrainingResult,
    check_can_compile,
    check_limit,
    kept_class_chunk,
    kept_precision,
    plan_memory,
    read_images,
    resolve_recipe,
    train,
)

if TYPE_CHECKING:
    from anprompt.classifier import PromptClassifier


@dataclass
class Fit:
    """One fit, ready to train: nothing that a user can get wrong is left.

    settings: what decides the result, as a document; a training state is only continued under the same.
    prepared: seconds until here. memory, result: what ``train`` planned and did; ``None`` without learnables.
    """

    method: Method
    source: DataSource
    images: TrainingImages
    used: list[Item]
    recipe: Recipe
    settings: dict[str, Any]
    precision: Choice
    storage: str
    cache: ActivationCache | None
    memory_limit: int | None
    folder: Path | None
    resume: bool
    prepared: float
    memory: MemoryPlan | None = None
    result: TrainingResult | None = None

    def train(self, progress: Progress | None) -> None:
        """Train the method's learnables, if it has any, and round them to what an adapter stores."""
        method, recipe = self.method, self.recipe
        if method.trainable:
            kept = kept_class_chunk(self.folder) if self.folder is not None and self.resume else None
            self.memory = plan_memory(method, recipe.batch, self.memory_limit, recipe, kept)
            if self.memory.worth_saying or self.memory_limit is not None:
                note(self.memory.summary())
            if kept is not None and kept != (self.memory.class_chunk or 0):
                note(
                    f"the interrupted run had the texts of {kept or 'all'} classes at a time, for which there is too "
                    "little memory now: results will agree with an uninterrupted run's up to rounding only"
                )

            def report(epoch: int, step: int, steps: int, terms: dict[str, float]) -> None:
                if progress is not None:
                    shown = {**terms, "epoch": epoch + 1, "rate": recipe.lr_at(epoch)}
                    progress("training", epoch * steps + step + 1, recipe.epochs * steps, shown)

            alone = nullcontext() if self.folder is None else locked(self.folder / ".lock", f"'{self.folder}'", note)
            backbone = method.backbone
            with alone, self.memory.applied(backbone), caching(self.cache, backbone), suitable_threads(backbone):
                self.result = train(
                    method, self.images, recipe, seed=self.settings["seed"], folder=self.folder, resume=self.resume,
                    fingerprint={**self.settings, "precision": self.precision.precision}, report=report,
                )  # fmt: skip
            round_to_storage(method, self.storage)
        method.requires_grad_(False)

    def about(self) -> dict[str, Any]:
        """What an adapter's description says of its making."""
        return {
            "preset": self.settings["preset"],
            "recipe": asdict(self.recipe),
            "precision": self.method.backbone.precision,
            "storage": self.storage,
            "data": {
                "name": self.source.name,
                "benchmark": self.source.benchmark,
                "sha256": self.settings["data"],
                "subset": self.settings["subset"],
                "shots": self.settings["shots"],
                "images": len(self.used),
                "own_split": self.source.own_split,
                **({"differs": list(self.source.differs)} if self.source.differs else {}),
            },
            "metrics": {},
        }

    def record(self) -> dict[str, Any]:
        """The record of the run, for tables."""
        method, cache, memory, result = self.method, self.cache, self.memory, self.result
        return make_record(
            "fit",
            self.settings,
            backbone={"source": method.backbone.source, "weights_sha256": self.settings["backbone"]},
            data=self.about()["data"],
            classes=list(self.source.classes),
            drawn=[self.source.relative(item) for item in self.used],
            decision=method.decision(),
            precision={"towers": self.precision.precision, "speedup": self.precision.speedup},
            parameters=sum(p.numel() for p in method.parameters()),
            loss=result.history if result else [],
            timings={"prepare": self.prepared, "train": result.seconds if result else 0.0},
            **({} if cache is None else {"cache": {"hits": cache.hits, "misses": cache.misses}}),
            steps=result.steps if result else 0,
            **({} if memory is None else {"memory": memory.to_json()}),
        )


def prepare(
    asked: PromptClassifier,
    data: Any,
    labels: Sequence[Any] | None,
    *,
    folder: Path | None,
    resume: bool,
    progress: Progress | None,
) -> Fit:
    """Turn what an estimator was ``asked`` for into a :class:`Fit`.

    Names, values and the folder are checked before data is looked at, and data before any picture is read.
    """
    began = time.perf_counter()
    kind = methods.find(asked.method)
    preset = find_preset(kind, asked.preset)
    preset_name = next(name for name, candidate in kind.presets.items() if candidate is preset)
    recipe = resolve_recipe(preset.recipe, asked.recipe)
    methods.resolve_options(asked.method, asked.preset, asked.options)
    check_settings(asked.shots, asked.random_state, asked.storage)
    shots, seed, device = int(asked.shots), int(asked.random_state), find_device(asked.device)
    cache, memory_limit = cache_for(asked.cache), check_limit(asked.memory_gb)
    _check_folder(folder, resume)

    whole = as_source(data, labels)
    source = whole.subset(asked.subset)
    options = {**benchmark_options(asked.method, preset_name, source.benchmark), **(asked.options or {})}
    bank = bank_for(asked.texts, whole)
    check_can_compile(recipe.compile, device)
    if recipe.compile != "off" and device.type == "cpu":
        note("compiling takes minutes and makes a step on a CPU hardly faster (docs/speed.md)")
    given = loaded(asked.backbone)
    weights_hash = given.weights_hash
    kept = kept_precision(folder) if folder is not None and resume else None
    chosen = choose_precision(recipe.precision, given, kept, device)
    if chosen.why:
        note(chosen.why)
    backbone = given.in_precision(chosen.precision, device)
    template = asked.template or source.template
    common = {"preset": preset_name, "template": template, "seed": seed, **options}
    # Before any photo is read: layers outside the tower, a template without {}, and names that are too long raise here.
    trial = methods.build(asked.method, backbone, **common)
    backbone.tokenizer(fill(template, source.classes))
    if trial.trainable and recipe.only_warms_up:
        note(
            f"every step learns at the warm-up rate {recipe.warmup_lr:g}, none at {recipe.lr:g}: set "
            f"--recipe.warmup_epochs (now {recipe.warmup_epochs}) below --recipe.epochs (now {recipe.epochs})"
        )
    needed = trial.trainable or "training photos" in kind.needs
    drawn = _draw(whole, asked.subset, shots, seed) if needed else []
    images, used = _read(source, drawn, backbone.transform.crop, recipe, asked.bad_images, progress)

    photos = FrozenPhotos(images, backbone, seed)
    method = methods.create(asked.method, backbone, source.classes, texts=bank, photos=photos, **common)
    missing = [name for name in source.classes if name not in bank.main]
    described = {"descriptions", "descriptions in training"} & set(kind.needs)
    if missing and (described or method.used_texts(source.classes).main):
        note(
            f"{len(missing)} of {len(source.classes)} classes have no descriptions and use the template instead: "
            f"{listed(missing)}; 'anprompt describe' makes some"
        )
    settings = {
        "method": asked.method,
        "preset": preset_name,
        "options": vars(method.options),
        "recipe": asdict(recipe),
        "seed": seed,
        "shots": shots,
        "subset": asked.subset,
        "template": template,
        "backbone": weights_hash,
        "data": source.content_hash(used),
        "texts": bank.source,
        "texts_sha256": sha256_json(bank.to_json()),
    }
    return Fit(
        method, source, images, used, recipe, settings, chosen, asked.storage, cache, memory_limit, folder, resume,
        prepared=time.perf_counter() - began,
    )  # fmt: skip


def _check_folder(folder: Path | None, resume: bool) -> None:
    """Refuse a place where no training state can be kept, or where the user's files would be replaced by it."""
    if folder is not None:
        check_writable(folder)
        check_foreign(folder, WRITTEN, option="folder")
    elif resume:
        raise UserError("resume=True goes on with a training whose state is in a folder: name it with folder=.")


def _draw(whole: DataSource, subset: str, shots: int, seed: int) -> list[Item]:
    """The training photos, labelled as in ``subset``. They are drawn from all classes, as the field does: in a list
    whose classes are mixed, drawing from the base classes alone would give others."""
    training = whole.splits.get("train", [])
    if not training:
        raise UserError(f"{whole.name} has no training pictures: learn from other data, and evaluate on this.")
    source = replace(whole, splits={"train": draw_few_shot(training, shots, seed)}).subset(subset)
    available = whole.subset(subset).splits.get("train", [])
    if short := short_classes(available, shots):
        shown = listed([f"{name} ({count})" for name, count in short.items()])
        note(f"{len(short)} of {len(source.classes)} classes have fewer than {shots} photos and give all: {shown}")
    return source.splits["train"]


def _read(
    source: DataSource, drawn: list[Item], crop: int, recipe: Recipe, on_bad: str, progress: Progress | None
) -> tuple[TrainingImages, list[Item]]:
    """Decode the training photos; a note says what is left out."""

    def checked(done: int, total: int) -> None:
        if progress is not None:
            progress("reading photos", done, total, {})

    images, used, bad = read_images(source, drawn, crop, on_bad, checked, crop_scale=recipe.crop_scale)
    if bad:
        note(f"{len(bad)} unreadable photos are left out: {listed([error.short for error in bad])}")
    return images, used
