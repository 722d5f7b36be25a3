"""The public estimator, following scikit-learn's rules."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from anprompt.adapter import load_adapter, save_adapter
from anprompt.data import BadImage, DataSource, Item, decode
from anprompt.errors import Problems, UserError, unknown_name
from anprompt.evaluating import answer, read_weights, weighted_share
from anprompt.fitting import prepare
from anprompt.inference import refuse_bad, stream_logits
from anprompt.inputs import as_pictures, as_source
from anprompt.labels import Label, Labels, check_new_names, read_labels
from anprompt.methods import Method
from anprompt.seen import fingerprints
from anprompt.settings import Progress, bank_for, cache_for, caching, find_device, given_bank, known_bank, listed, note
from anprompt.text import DescriptionBank, described

CHOICES = ("data", "all")  # of the classes that ``evaluate`` chooses among


class PromptClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """An image classifier made from a frozen CLIP-like model and a few photos per class.

    Parameters
    ----------
    backbone: ``"miniature"`` (packaged, for trying out), a hub id, a folder, an OpenAI ``.pt`` file, or a loaded one.
    method, preset: a name from ``anprompt methods`` and one of its presets (``None``: the first).
    shots: photos drawn per class; a class that has fewer gives all of them.
    subset: ``"all"`` classes of the data, the ``"base"`` half or the ``"new"`` half.
    texts: file or folder with descriptions of the classes, a dictionary ``{class: [sentences]}``, or a bank; ``None``:
        templates.
    template: sentence with ``{}`` for the class name; ``None``: the data's own.
    options, recipe: changes to the preset's options and training recipe.
    bad_images: ``"stop"`` at unreadable photos, or ``"skip"`` them: ``predict`` then answers ``None`` to them.
    storage: ``"fp16"`` or ``"fp32"``, the number format that learned tensors are rounded to after training.
    cache: folder (or an ``ActivationCache``) where ``fit`` and ``evaluate`` keep what the frozen lower blocks give for
        a batch of pictures; further runs that show the same batches read it. Same results; ``None``: no cache.
    device: ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"`` or a ``torch.device``.
    memory_gb: GiB that ``fit`` may hold in all, on a GPU what it may hold there; ``None``: 80 % of what is free. With
        many classes it then takes some at a time, which is slower.
    random_state: seed of everything that is drawn.

    After ``fit``: ``classes_`` (names), ``method_``, ``record_`` (settings, data, timings as a document).
    """

    def __init__(
        self,
        backbone: Any = "miniature",
        method: str = "anprompt",
        *,
        preset: str | None = None,
        shots: int = 16,
        subset: str = "all",
        texts: Any = None,
        template: str | None = None,
        options: dict[str, Any] | None = None,
        recipe: dict[str, Any] | None = None,
        bad_images: str = "stop",
        storage: str = "fp16",
        cache: Any = None,
        memory_gb: float | None = None,
        device: Any = "auto",
        random_state: int = 1,
    ) -> None:
        self.backbone = backbone
        self.method = method
        self.preset = preset
        self.shots = shots
        self.subset = subset
        self.texts = texts
        self.template = template
        self.options = options
        self.recipe = recipe
        self.bad_images = bad_images
        self.storage = storage
        self.cache = cache
        self.memory_gb = memory_gb
        self.device = device
        self.random_state = random_state

    def set_params(self, **params: Any) -> PromptClassifier:
        """Change parameters; :class:`UserError` for entries of ``options`` and ``recipe`` as ``options__NAME``."""
        problems = Problems("These parameters cannot be set:")
        for name, value in params.items():
            whole, _, entry = name.partition("__")
            if entry and whole in self.get_params(deep=False):
                problems.add(f"'{name}': '{whole}' is set as a whole, as in {whole}={{'{entry}': {value!r}}}")
        problems.raise_if_any()
        super().set_params(**params)
        return self

    # ---- learning --------------------------------------------------------------------------------------------------

    def fit(
        self,
        data: Any,
        labels: Sequence[Any] | None = None,
        *,
        folder: str | Path | None = None,
        resume: bool = False,
        progress: Progress | None = None,
    ) -> PromptClassifier:
        """Learn the classes of ``data``: a path or specification, a data source, or (pictures, labels).

        folder: where the training state is kept, so that an interrupted run can ``resume`` exactly.
        Labels are text, whole numbers or truth values; predictions are of the same kind. In sentences a class is called
        ``str(label)``, with spaces for ``_``.
        Raises :class:`UserError` for anything wrong with names, data, settings or ``folder``, before training starts.
        """
        of_pictures = None
        if labels is not None:
            labels, dtype = read_labels(labels)
            of_pictures = Labels.of_pictures(labels, dtype)
        run = prepare(self, data, labels, folder=Path(folder) if folder is not None else None, resume=resume,
                      progress=progress)  # fmt: skip
        run.train(progress)
        self.method_: Method = run.method
        self.about_: dict[str, Any] = run.about()
        if of_pictures is not None and of_pictures.of:
            self.about_["labels"] = of_pictures.to_json()
        if photos := fingerprints(run.source, run.used):
            self.about_["photos"] = "".join(photos)
        self.record_: dict[str, Any] = run.record()
        return self

    # ---- prediction ------------------------------------------------------------------------------------------------

    @property
    def classes_(self) -> npt.NDArray[Any]:
        """The labels that ``fit`` got, else class names, in the order of the columns of ``decision_function``."""
        if "method_" not in vars(self):
            raise AttributeError("classes_")
        return self._labels.array(self.method_.class_names)

    @property
    def _labels(self) -> Labels:
        return Labels.from_json(self.about_.get("labels"))

    def decision_function(self, pictures: Any, progress: Progress | None = None) -> npt.NDArray[np.float32]:
        """Logits ``(n, C)`` of pictures: files, folders, patterns, PIL images, arrays or tensors.

        An array ``(n, H, W, 1, 3 or 4)`` is n pictures, ``(H, W, 1, 3 or 4)`` one, any other ``(n, H, W)`` n grey ones;
        in tensors channels come first. Unreadable pictures raise :class:`UserError`; with ``bad_images="skip"`` their
        rows are NaN. Two classes have two columns, unlike in scikit-learn: its scorers of scores for two classes work
        with ``make_scorer(roc_auc_score, response_method="predict_proba")``.
        """
        check_is_fitted(self, "method_")
        entries = as_pictures(pictures)
        bad: list[BadImage] = []
        rows = np.full((len(entries), len(self.method_.class_names)), np.nan, np.float32)
        done, stop = 0, self.bad_images == "stop"
        for chunk, logits in stream_logits(
            self.method_, list(enumerate(entries)), lambda pair: decode(pair[1]), bad=bad, stop=stop
        ):
            rows[[at for at, _ in chunk]] = logits.numpy()
            done += len(chunk)
            if progress is not None:
                progress("predicting", done, len(entries), {"photos": len(chunk)})
        if stop:
            refuse_bad(bad, len(entries))
        if bad:
            shown = listed([error.short for error in bad])
            note(f"{len(bad)} of {len(entries)} pictures cannot be read and get no answer (NaN or None): {shown}")
        return rows

    def predict_proba(self, pictures: Any) -> npt.NDArray[np.float32]:
        """Probabilities ``(n, C)``: softmax of the logits; NaN for pictures that are skipped."""
        return torch.from_numpy(self.decision_function(pictures)).softmax(dim=1).numpy()

    def predict(self, pictures: Any) -> npt.NDArray[Any]:
        """The most likely class of each picture ``(n,)``, as one of ``classes_``.

        With ``bad_images="skip"`` the answer to an unreadable picture is ``None``, and the array is one of objects.
        """
        logits = self.decision_function(pictures)
        skipped = np.isnan(logits).any(axis=1)
        labels: npt.NDArray[Any] = self.classes_[logits.argmax(axis=1)]
        if skipped.any():
            labels = labels.astype(object)
            labels[skipped] = None
        return labels

    def evaluate(
        self,
        data: Any,
        labels: Sequence[Any] | None = None,
        *,
        split: str = "test",
        subset: str = "all",
        among: str = "data",
        progress: Progress | None = None,
        each: Callable[[Sequence[Item], torch.Tensor], None] | None = None,
    ) -> dict[str, Any]:
        """Accuracy of the tuned prompts on labelled data, over the classes of its ``subset``, known or new, by name.

        split: one of the data's, or ``"all"`` of them together.
        among: the classes to choose among: those of the photos (``"data"``), or those and ``classes_`` (``"all"``).
        Labels of pictures in memory must be among ``classes_``; ``with_classes(…).evaluate`` takes others.
        each: called with the items of every batch and their logits ``(B, C)``, for whoever needs more than accuracy.
        Returns ``accuracy``, ``class_mean`` (per cent), ``images``, ``per_class``, ``classes``, ``decision``,
        ``template``, ``predictions`` (path, label, prediction, probability) and ``seconds``.
        """
        check_is_fitted(self, "method_")
        began = time.perf_counter()
        classes = None if labels is None else self.method_.class_names
        source = self._among(among, as_source(data, labels, classes=classes, known=self._labels).subset(subset))
        if labels is not None and split == "test":
            split = "train"  # pictures in memory have a single list
        items = source.items(split)
        if not items:
            raise source.nothing_to_test(split)
        cache = cache_for(self.cache)
        method = self.facing(source).method_
        with caching(cache, method.backbone):
            found = answer(method, source, items, stop=self.bad_images == "stop", progress=progress, each=each)
        data = {"name": source.name, "benchmark": source.benchmark, "subset": subset, "split": split,
                "own_split": source.own_split, **found.pop("data"), "differs": list(source.differs)}  # fmt: skip
        return {**found, "data": data, "seconds": time.perf_counter() - began}

    def score(self, data: Any, labels: Sequence[Any] | None = None, sample_weight: Any = None) -> float:
        """Share of correct answers, 0 to 1, on the test split of a data set or on (pictures, labels).

        sample_weight: what each of the pictures counts, ``(n,)``; only with ``labels``. Skipped ones count nothing.
        Raises :class:`UserError` as :meth:`evaluate` does, and for weights that cannot be used.
        """
        check_is_fitted(self, "method_")
        if sample_weight is None:
            return float(self.evaluate(data, labels)["accuracy"]) / 100
        if labels is None:
            raise UserError("sample_weight belongs to pictures that are given with their labels.")
        source = as_source(data, labels, classes=self.method_.class_names, known=self._labels)
        weights = read_weights(sample_weight, len(source.items("train")))
        return weighted_share(self.evaluate(source, split="train")["predictions"], weights)

    # ---- classes ---------------------------------------------------------------------------------------------------

    def with_classes(
        self,
        names: Sequence[Label],
        descriptions: Mapping[Any, str | Sequence[str]] | None = None,
        *,
        source: DataSource | None = None,
    ) -> PromptClassifier:
        """A view of the same tuned prompts over other classes; this classifier stays as it is.

        names: names or labels; ``_`` in a new name is a space in sentences, and ``classes_`` keeps what was given.
        descriptions: sentences by class name, where a text is one sentence; those that the adapter knows, or ``source``
            brings, need not be given.
        source: data of these classes. A published data set other than that of the training is worded in its own way:
            by its template, and by ``texts`` or its own sentences alone where it has any.
        Raises :class:`UserError` for names given twice, empty names, descriptions that are no sentences or of none
        of ``names``, or a method that only knows its own classes.
        """
        check_is_fitted(self, "method_")

        def named(given: Sequence[Label]) -> tuple[list[str], Labels]:
            return self._given(given) if source is None else ([str(name) for name in given], self._labels)

        chosen, labels = named(names)
        check_new_names(chosen, published=source is not None and source.benchmark is not None)
        self.method_.check_names(chosen)
        own = described(descriptions, lambda keys: named(keys)[0], chosen)
        template, known = self._wording(chosen, source)
        for name, sentences in own.items():
            known = known.with_class(name, sentences)
        view = PromptClassifier(**self.get_params(deep=False))
        method = copy.copy(self.method_)
        method.template = template
        view.method_ = method.with_classes(chosen, known, foreign=self.is_elsewhere(source))
        trained = () if self.is_elsewhere(source) else self.method_.class_names
        missing = [n for n in chosen if not (n in known.main or n in trained or view.method_.is_kept(n))]
        if missing and "descriptions" in self.method_.needs:
            without = f"{len(missing)} of {len(chosen)} classes have no descriptions and use the template"
            note(f"{without}: {listed(missing)}; 'anprompt describe' makes some")
        view.about_, view.record_ = _labelled(self.about_, labels), self.record_
        return view

    def facing(self, source: DataSource) -> PromptClassifier:
        """This classifier, or a view of it over the classes of ``source`` where these or their wording differ."""
        check_is_fitted(self, "method_")
        if self.method_.class_names != list(source.classes):
            return self.with_classes(source.classes, source=source)
        if self.is_elsewhere(source):
            (template, bank), own = self._wording(source.classes, source), self.method_
            if any(bank.of(name, template) != own.bank.of(name, own.template) for name in source.classes):
                return self.with_classes(source.classes, source=source)
        return self

    def _among(self, which: str, source: DataSource) -> DataSource:
        """``source`` with the classes that ``evaluate`` chooses among."""
        if which not in CHOICES:
            raise unknown_name("choice of classes", which, CHOICES)
        if which == "data":
            return source
        if self.is_elsewhere(source):
            raise UserError(f"The classes of '{source.name}' are worded in its own way, unlike those of the training: "
                            "choose among those of the data.")  # fmt: skip
        return source.among(self.method_.class_names)

    def is_elsewhere(self, source: DataSource | None) -> bool:
        """Whether ``source`` is a published data set other than that of the training, and worded in its own way."""
        return source is not None and source.keeps_wording(self.about_.get("data", {}).get("benchmark"))

    def _wording(self, names: Sequence[str], source: DataSource | None) -> tuple[str, DescriptionBank]:
        """The template and the sentences that word classes ``names`` of ``source``."""
        if source is not None and self.is_elsewhere(source):  # as the field does, and as records say
            own = bank_for(self.texts, source)
            return source.template, own if own.main else self.method_.bank
        return self.method_.template, known_bank(self.method_, self.texts, names, source)

    def add_class(self, name: Label, descriptions: str | Sequence[str] | None = None) -> PromptClassifier:
        """Add a class without training. The logits of the present classes stay exactly as they were.

        descriptions: its sentences, or one as a text; ``None``: those that ``texts`` has of it, or the template.
        After a name that is text, ``classes_`` of labels that were numbers are objects.
        Raises :class:`UserError` for a name that is empty or there already, descriptions that are no sentences, or a
        method that only knows its own classes.
        """
        check_is_fitted(self, "method_")
        (name,), labels = self._given([name])
        check_new_names([name], present=self.method_.class_names)
        self.method_.check_names([name])
        own = {} if descriptions is None else described({name: descriptions}, list, [name])
        bank = known_bank(self.method_, self.texts, [name], needed=False)
        if own:
            bank = bank.with_class(name, own[name])
        if name not in bank.main and "descriptions" in self.method_.needs:
            note(f"The class '{name}' has no descriptions and uses the template '{self.method_.template}'.")
        self.method_.add_classes([name], bank)
        self.about_ = _labelled(self.about_, labels)
        return self

    def _given(self, labels: Sequence[Label]) -> tuple[list[str], Labels]:
        """The class names that labels or names stand for, and what these classes are called from now on."""
        values, _ = read_labels(labels, "The class names", mixed=True)
        return self._labels.given(values, self.method_.class_names)

    # ---- files -----------------------------------------------------------------------------------------------------

    def bake(self) -> PromptClassifier:
        """Turn into the smallest form: prompt tokens and one vector per class instead of the maps. Ends training."""
        check_is_fitted(self, "method_")
        self.method_.bake()
        return self

    def save(self, folder: str | Path) -> Path:
        """Write the adapter into ``folder`` (docs/adapter-format.md); :class:`UserError` if that is not possible."""
        check_is_fitted(self, "method_")
        save_adapter(Path(folder), self.method_, self.about_)
        return Path(folder)

    @classmethod
    def load(
        cls, folder: str | Path, backbone: Any = None, *, device: Any = "auto", precision: str = "auto", **params: Any
    ) -> PromptClassifier:
        """Load an adapter. backbone: where its model lies now, if not where it was trained. params: e.g. ``texts``.

        precision: ``"fp32"``, ``"bf16"`` or ``"auto"``, that of the training, where this machine is fast at it.
        Raises :class:`UserError` for what is no adapter, for another backbone, and for ``texts`` that cannot be read.
        """
        method, document = load_adapter(folder, backbone, find_device(device), precision)
        data = document.get("data", {})
        own = cls(
            backbone=method.backbone.source, method=method.name, preset=document.get("preset"),
            shots=data.get("shots", 16), subset=data.get("subset", "all"), template=method.template,
            options=document["options"], recipe=document.get("recipe"), device=device,
            storage=document.get("storage", "fp16"), random_state=document["seed"], **params,
        )  # fmt: skip
        own.method_ = method
        kept = ("preset", "recipe", "precision", "storage", "data", "metrics", "labels", "photos")
        own.about_ = {key: document[key] for key in kept if key in document}
        own.record_ = document
        if own.texts is not None:  # told now, whether or not a class will need them
            given_bank(own.texts, method.class_names, needed=False)
        return own


def _labelled(about: dict[str, Any], labels: Labels) -> dict[str, Any]:
    """``about`` an adapter, with what the user calls its classes."""
    return {**about, "labels": labels.to_json()} if labels.of else about
