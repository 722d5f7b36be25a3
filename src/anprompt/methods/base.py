"""The interface of all methods: learnable parameters on a frozen backbone, losses for training, logits for prediction.

A method file defines one subclass of :class:`Method`; defining it registers it. The training loop, the adapter file and
the command line only know this interface. A method knows no data set, no file format and no command.
"""

from __future__ import annotations

import copy
import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.clip import Backbone, Sentences
from anprompt.errors import UserError
from anprompt.methods.baked import BakedClasses
from anprompt.text import DEFAULT_TEMPLATE, DescriptionBank

REGISTRY: dict[str, type[Method]] = {}


@dataclass(frozen=True)
class Preset:
    """Named settings: ``options`` of the method and the training ``recipe`` that goes with them."""

    about: str
    options: Mapping[str, Any] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)


class Photos(Protocol):
    """The training photos, for methods that look at them before training."""

    labels: Tensor  # (N,)

    def features(self, views: int = 0) -> Tensor:
        """Frozen unit features ``(N, d)``: of each photo as at prediction, or the mean over augmented ``views``."""
        ...


@dataclass
class ClassBlock:
    """Classes that a method got together, with everything of them that is frozen.

    Logits are computed block by block, so classes added later leave the earlier ones' logits exactly as they were.

    sentences: tokenised texts that are encoded under the method's prompts, by default ``plain``.
    plain: the template filled with the class names, tokenised. Both are ``None`` for baked classes.
    extra: further tensors that the method keeps of these classes, by name.
    trained: whether the method was trained on them.
    """

    names: tuple[str, ...]
    sentences: Sentences | None
    plain: Sentences | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)
    trained: bool = True
    kept: tuple[Any, Tensor] | None = None  # (state of the parameters, class weights), for inference

    @cached_property
    def frozen(self) -> Tensor:
        """``(C, d)``: unit features of ``plain`` without prompts, computed when first read: most methods never do."""
        assert self.plain is not None
        plain = copy.copy(self.plain)  # it keeps frozen activations for one plan at a time: those of training stay
        with torch.no_grad():
            return F.normalize(plain.features(), dim=-1)


class Method(nn.Module, ABC):
    """Base of all methods. Learnables are the module's parameters; frozen prompts are persistent buffers.

    Of an object:
        backbone: frozen; not a sub-module, so it is in neither ``parameters()`` nor ``state_dict()``.
        seed: of everything drawn before training (initial values come from torch's global generator, see ``create``).
        blocks: the classes to choose among. learned: names of the classes it was trained on, whatever ``blocks`` hold.
        baked: after :meth:`bake`, the classes of which only weights are kept; ``None`` before.

    Declared by a method's class:
        needs: ``"descriptions"`` of all classes, or ``"descriptions in training"`` of the training classes alone;
            ``"training photos"``, which :meth:`see` gets before training.
        supports_new_classes: whether it can be asked about classes that it was not trained on. only_known: why not.
        views, chance, plain: what training batches hold besides pixels and labels. ``"views"`` ``(V, B, 3, H, W)``: so
            many further augmentations of the same photos. ``"chance"``: one random number in [0, 1) a step.
            ``"plain"`` ``(B, d)``: frozen unit features of the photos without augmentation.
        rows_per: names of tensors with one row for each training ``"class"`` or ``"photo"``; they are made without
            rows, and :meth:`make_room` gives them theirs.
    """

    name: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    link: ClassVar[str] = ""
    year: ClassVar[int] = 0
    needs: ClassVar[tuple[str, ...]] = ()
    supports_new_classes: ClassVar[bool] = True
    only_known: ClassVar[str] = ""
    views: ClassVar[int] = 0
    chance: ClassVar[bool] = False
    plain: ClassVar[bool] = False
    rows_per: ClassVar[Mapping[str, str]] = {}
    Options: ClassVar[type[Any]]
    presets: ClassVar[dict[str, Preset]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.name:
            REGISTRY[cls.name] = cls

    def __init__(self, backbone: Backbone, options: Any, *, template: str = DEFAULT_TEMPLATE, seed: int = 1) -> None:
        super().__init__()
        object.__setattr__(self, "backbone", backbone)  # past nn.Module: not ours to train
        self.backbone: Backbone
        self.options = options
        self.template = template
        self.seed = seed
        self.bank = DescriptionBank()
        self.blocks: list[ClassBlock] = []
        self.learned: tuple[str, ...] = ()
        self.baked: BakedClasses | None = None

    # ---- classes ---------------------------------------------------------------------------------------------------

    @property
    def class_names(self) -> list[str]:
        """Names of the classes to choose among, in the order of the logits' columns."""
        return [name for block in self.blocks for name in block.names]

    def make_block(self, names: Sequence[str], *, trained: bool) -> ClassBlock:
        """Build the block of classes ``names`` from the sentences in ``self.bank``. Methods extend this."""
        plain = Sentences(self.backbone, [self.bank.fill(self.template, name) for name in names])
        return ClassBlock(tuple(names), plain, plain, trained=trained)

    def start(self, names: Sequence[str], bank: DescriptionBank) -> None:
        """Set the classes to train on. bank: their sentences. Methods extend this with what they prepare from both."""
        self.make_room({"class": len(names)})
        self.bank, self.learned = bank, tuple(names)
        self.blocks = [self.make_block(names, trained=True)]

    def see(self, photos: Photos) -> None:
        """Look at the training photos, once, after :meth:`start` and before training."""
        self.make_room({"photo": len(photos.labels)})

    def make_room(self, counts: Mapping[str, int]) -> None:
        """Give the tensors of ``rows_per`` as many rows, of zeros, as there are: ``{"class": C, "photo": N}``."""
        for name, each in self.rows_per.items():
            own: Tensor = getattr(self, name)
            if each in counts and len(own) != counts[each]:
                self.replace(name, own.detach().new_zeros(counts[each], *own.shape[1:]))

    def replace(self, name: str, tensor: Tensor) -> None:
        """Put ``tensor`` in the place of a learnable or a frozen tensor of another number of rows."""
        learned = isinstance(getattr(self, name), nn.Parameter)
        setattr(self, name, nn.Parameter(tensor) if learned else tensor)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As in every module; rows for classes and photos are made as the file has them."""
        self.make_room({each: len(state_dict[name]) for name, each in self.rows_per.items() if name in state_dict})
        return super().load_state_dict(state_dict, strict, assign)

    def start_epoch(self, epoch: int) -> None:
        """Called by the loop before each epoch (counted from 0)."""

    def heaviest_epoch(self, epochs: int) -> int:
        """The epoch (from 0, of ``epochs``) with the most expensive steps: memory and time are estimated from it."""
        return 0

    def with_classes(
        self, names: Sequence[str], bank: DescriptionBank | None = None, *, foreign: bool = False
    ) -> Method:
        """A view of the same prompts over other classes; parameters are shared, this object stays as it is.

        bank: sentences of these classes; those of the training classes are known already.
        foreign: they are of another published data set: unless all were trained on, all are decided as new ones are.
        """
        self.check_names(names)
        view = copy.copy(self)
        if bank is not None:
            view.bank = bank
        learned = set(self.learned)
        if foreign and not learned.issuperset(names):
            learned = set()
        if not self.supports_new_classes and list(names) != self.class_names:  # two of these may share a name
            view._parameters, view._buffers = dict(self._parameters), dict(self._buffers)
            view.keep_classes([self.class_names.index(name) for name in names])
        runs = itertools.groupby(names, learned.__contains__)  # the order of the classes stays
        view.blocks = [view.make_block(list(run), trained=trained) for trained, run in runs]
        return view

    def check_names(self, names: Sequence[str]) -> None:
        """Raise :class:`UserError` for classes that a method without ``supports_new_classes`` was not trained on."""
        unknown = sorted(set(names) - set(self.class_names))
        if unknown and not self.supports_new_classes:
            reason = f", because {self.only_known}" if self.only_known else ""
            more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
            raise UserError(
                f"Method '{self.name}' only knows the classes that it was trained on{reason}: '{unknown[0]}'{more} "
                "cannot be put in front of it."
            )

    def keep_classes(self, rows: Sequence[int]) -> None:
        """Keep only these training classes, in this order; for methods without ``supports_new_classes``.

        Called on a view, whose tensors can be replaced without changing the original's.
        """
        for name in (name for name, each in self.rows_per.items() if each == "class"):
            self.replace(name, getattr(self, name).detach()[list(rows)])

    def with_bank(self, bank: DescriptionBank) -> Method:
        """A view of the same classes and prompts that reads other sentences; image features stay as they are.

        Raises :class:`UserError` for new words of a baked class whose sentences are not known.
        """
        if self.baked is not None:
            self.baked.check_rewording(bank, self.template)
        view = copy.copy(self)
        view.bank = bank
        view.blocks = [view.make_block(block.names, trained=block.trained) for block in self.blocks]
        return view

    def add_classes(self, names: Sequence[str], bank: DescriptionBank) -> None:
        """Append classes without training; the logits of the present ones stay exactly as they are.

        bank: sentences of all classes, the present ones included. If they are refused, nothing has changed.
        """
        self.check_names(names)
        before, self.bank = self.bank, bank
        try:
            block = self.make_block(names, trained=set(self.learned).issuperset(names))
        except UserError:
            self.bank = before
            raise
        self.blocks = [*self.blocks, block]

    def used_texts(self, names: Sequence[str]) -> DescriptionBank:
        """The sentences from which ``names`` would be built: saved with the adapter, enough to rebuild the classes."""
        return DescriptionBank()

    def main_texts(self, names: Sequence[str]) -> DescriptionBank:
        """The main sentences of ``names``, as many as the bank has: ``used_texts`` of methods that read these alone."""
        return DescriptionBank({n: self.bank.main[n] for n in names if n in self.bank.main}, {}, self.bank.source)

    def wording(self, name: str) -> tuple[str, ...]:
        """The sentences that the logits of class ``name`` depend on; the bare name where learned words replace them."""
        return (self.bank.fill(self.template, name), *self.used_texts([name]).main.get(name, ()))

    @classmethod
    def deciding_options(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of those ``options`` that only the decision reads: runs that differ in nothing else train alike."""
        return ()

    def deciding_by(self, options: Mapping[str, Any]) -> Method:
        """A view of the same learnables and classes with other values of :meth:`deciding_options`."""
        values = {name: options[name] for name in self.deciding_options(options)}
        if all(getattr(self.options, name) == value for name, value in values.items()):
            return self
        view = copy.copy(self)
        view.options = replace(self.options, **values)
        view.blocks = [replace(block, kept=None) for block in self.blocks]
        return view

    # ---- training --------------------------------------------------------------------------------------------------

    @property
    def trainable(self) -> bool:
        return any(True for _ in self.parameters())

    @abstractmethod
    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Loss terms of a batch ``{"pixels": (B, 3, H, W), "labels": (B,)}``; ``"total"`` is what is minimised."""

    def backward(self, losses: Mapping[str, Tensor]) -> None:
        """Fill the parameters' gradients from what :meth:`losses` gave; a method with a gradient rule replaces this."""
        losses["total"].backward()  # type: ignore[no-untyped-call]

    def after_step(self) -> None:
        """Called by the loop after each step of the optimiser, for state that is updated from the last batch."""

    def end_epoch(self, epoch: int, epochs: int) -> None:
        """Called by the loop after each epoch (counted from 0) of ``epochs``, before the checkpoint is written."""

    def training_state(self) -> dict[str, Tensor]:
        """Tensors that resuming a run needs beside ``state_dict()``, by name; a checkpoint is copied back into them.

        Unlike buffers, they do not become part of the adapter.
        """
        return {}

    # ---- prediction ------------------------------------------------------------------------------------------------

    @abstractmethod
    def image_features(self, pixels: Tensor) -> Tensor:
        """Unit features ``(B, d)`` of normalised pixels ``(B, 3, H, W)`` under the method's image prompts."""

    @abstractmethod
    def class_weights(self, block: ClassBlock) -> Tensor:
        """What ``block_logits`` needs of the classes, e.g. unit text features ``(C, d)``. Costly, hence kept."""

    def block_logits(self, features: Tensor, block: ClassBlock) -> Tensor:
        """Logits ``(B, C)`` of image features ``(B, d)`` for one block."""
        return self.backbone.logit_scale * features @ self.kept_weights(block).T

    def kept_weights(self, block: ClassBlock) -> Tensor:
        """``class_weights``, computed once and again as soon as any parameter or buffer has changed."""
        state = tuple((t.data_ptr(), t._version) for t in (*self.parameters(), *self.buffers()))
        if block.kept is None or block.kept[0] != state:
            block.kept = (state, self.class_weights(block))
        return block.kept[1]

    def text_rows(self, block: ClassBlock) -> Tensor:
        """One row for each class, ``(C, ·)``: measures how far rewording moves a class. By default its weights."""
        return self.kept_weights(block)

    @torch.no_grad()
    def logits(self, pixels: Tensor) -> Tensor:
        """Logits ``(B, C)`` used for prediction, columns in the order of ``class_names``."""
        features = self.image_features(pixels)
        return torch.cat([self.block_logits(features, block) for block in self.blocks], dim=1)

    def bake(self, tensors: Mapping[str, Tensor] | None = None, names: Sequence[str] = ()) -> None:
        """Turn into a smaller form for prediction only, or restore that form from an adapter's ``tensors``.

        names: of the classes in that file. Sets ``baked``. A method without such a form raises :class:`UserError`.
        """
        raise UserError(f"Method '{self.name}' has no smaller form: save its adapter without --bake.")

    def is_kept(self, name: str) -> bool:
        """Whether weights that :meth:`bake` left stand for class ``name``, not what the bank says of it now."""
        return self.baked is not None and self.baked.keeps(name, self.bank, self.template)

    def decision(self) -> str:
        """Which logits predictions are made from, in words, for result files."""
        return "logits"
