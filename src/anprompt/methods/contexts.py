"""What methods with prompts from the input on share: sentences with places for them, their start, and their plans.

Text: learnable vectors stand in the places of the words behind SOS, so they get the positions' embeddings; at deeper
blocks the hidden states of the same places are overwritten. Vision: tokens are appended behind the patches, without a
position, before the first layer norm; at deeper blocks the last hidden states are overwritten.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from anprompt.clip import Backbone, Sentences
from anprompt.clip.plan import PromptPlan, PromptWrite
from anprompt.errors import UserError
from anprompt.methods.base import ClassBlock, Method
from anprompt.text import DescriptionBank, check_template

STANDARD_WORDS = "a photo of a"


def word_ids(backbone: Backbone, words: str) -> list[int]:
    """Token ids of ``words``, without the marks of start and end."""
    ids: list[int] = backbone.tokenizer([words])[0].tolist()
    return ids[1 : ids.index(backbone.config.eot_id)]


def start_of_context(backbone: Backbone, length: int, words: str, *, rest: str = "random") -> Tensor:
    """First values ``(K, D)`` of K = ``length`` context vectors.

    words: their embeddings fill the last places; empty: none. rest: the places before, ``"random"``: N(0, 0.02²), or
    ``"zero"``. More words than places are a :class:`UserError`.
    """
    width = backbone.config.text.width
    start = 0.02 * torch.randn(length, width) if rest == "random" else torch.zeros(length, width)
    if words and start.device.type != "meta":
        ids = word_ids(backbone, words)
        if len(ids) > length:
            raise UserError(
                f"Option 'start' ('{words}') has {len(ids)} tokens, but 'length' is {length}: "
                "give fewer words or a larger length."
            )
        start[length - len(ids) :] = backbone.text.token.weight.detach()[ids]
    return start


def places(length: int) -> str:
    """A template with ``length`` places, of one token each, in front of the class name."""
    return " ".join([*["X"] * length, "{}."])


def worded(bank: DescriptionBank, frame: str, fixed: int, name: str) -> str:
    """``frame`` filled with ``name``, without its first ``fixed`` words: what noise can reach behind prompts."""
    rest = " ".join(frame.split(" ")[fixed:])
    return rest.replace("{}", bank.name(name)) if rest in ("{}", "{}.") else bank.fill(rest, name)


def prompted(backbone: Backbone, bank: DescriptionBank, frame: str, fixed: int, names: Sequence[str]) -> Sentences:
    """The sentences of ``names``. The first ``fixed`` words of ``frame`` are places of prompts: they stay as they are.

    Sentences that rewording makes too long are cut.
    """
    first = frame.split(" ")[:fixed]
    sentences = [" ".join([*first, worded(bank, frame, fixed, name)]) for name in names]
    return Sentences(backbone, sentences, truncate=bank.rewrite is not None)


def text_plan(backbone: Backbone, tokens: Sequence[Tensor]) -> PromptPlan:
    """Prompts at the places 1..K of the text tower: ``tokens[i]``, ``(K, D)`` or ``(N, K, D)``, before block i + 1."""
    first = tokens[0] + backbone.text.position[1 : 1 + tokens[0].shape[-2]]
    return PromptPlan(
        tuple(PromptWrite(block, t, "overwrite", 1) for block, t in enumerate((first, *tokens[1:]), start=1))
    )


def vision_plan(backbone: Backbone, tokens: Sequence[Tensor]) -> PromptPlan:
    """Prompts behind the patches of the vision tower: ``tokens[i]``, ``(K, D)``, before block i + 1."""
    first = backbone.vision.ln_pre(tokens[0])  # as if appended before that norm, which treats tokens one by one
    return PromptPlan.deep(dict(enumerate((first, *tokens[1:]), start=1)), at=None)


def check_depth(depth: int, backbone: Backbone) -> None:
    """Raise :class:`UserError` when prompts up to block ``depth`` do not fit the towers."""
    most = min(backbone.config.text.depth, backbone.config.vision.depth)
    if depth > most:
        raise UserError(f"Option 'depth' is {depth}, but the towers have {most} blocks: allowed are 1 to {most}.")


class ContextMethod(Method):
    """Base of methods with learnable context ``(M, D)`` in the text tower's input and a frozen vision tower.

    ``options.length`` is M. A block's sentences are ``"X … X name."``; its ``frozen`` is of the run's template.
    """

    context: Tensor

    def make_block(self, names: Sequence[str], *, trained: bool) -> ClassBlock:
        block = super().make_block(names, trained=trained)
        length = self.options.length
        return replace(block, sentences=prompted(self.backbone, self.bank, places(length), length, names))

    def wording(self, name: str) -> tuple[str, ...]:
        return (self.bank.name(name),)

    def image_features(self, pixels: Tensor) -> Tensor:
        return self.backbone.encode_image(pixels)

    def class_weights(self, block: ClassBlock) -> Tensor:
        """``f_t`` ``(C, d)``, unit length."""
        assert block.sentences is not None
        return F.normalize(block.sentences.features(text_plan(self.backbone, [self.context])), dim=-1)


class DeepPromptMethod(Method):
    """Base of methods with prompts in the first blocks of both towers.

    ``options``: ``length`` K; ``depth`` J, how many blocks have prompts; ``start``, words in front of the class name.
    Prompts stand in the places of the first K of these words and begin as their embeddings; with fewer words than
    prompts they stand in the places of placeholders and begin at random.
    """

    def __init__(self, backbone: Backbone, options: Any, **common: Any) -> None:
        super().__init__(backbone, options, **common)
        check_depth(options.depth, backbone)
        check_template(f"{options.start} {{}}.")

    def start_of_prompts(self) -> Tensor:
        """First values ``(J, K, D_t)`` of text prompts: N(0, 0.02²), those of block 1 from the words."""
        o, width = self.options, self.backbone.config.text.width
        start = 0.02 * torch.randn(o.depth, o.length, width)
        if start.device.type != "meta" and len(ids := word_ids(self.backbone, o.start)) >= o.length:
            start[0] = self.backbone.text.token.weight.detach()[ids[: o.length]]
        return start

    def frame(self) -> str:
        """The template of the prompted sentences."""
        o = self.options
        return f"{o.start} {{}}." if len(word_ids(self.backbone, o.start)) >= o.length else places(o.length)

    def learned_words(self) -> int:
        """How many words of the frame lie, wholly or in part, in the places of prompts."""
        words, tokens = self.frame().split(" "), 0
        for count, word in enumerate(words):
            if tokens >= self.options.length:
                return count
            tokens += len(word_ids(self.backbone, word))
        return len(words)

    def make_block(self, names: Sequence[str], *, trained: bool) -> ClassBlock:
        block = super().make_block(names, trained=trained)
        return replace(block, sentences=prompted(self.backbone, self.bank, self.frame(), self.learned_words(), names))

    def wording(self, name: str) -> tuple[str, ...]:
        said = worded(self.bank, self.frame(), self.learned_words(), name)
        return (self.bank.name(name) if said.rstrip(".") == self.bank.name(name) else said,)

    @abstractmethod
    def prompts(self) -> tuple[list[Tensor], list[Tensor]]:
        """Text prompts ``(K, D_t)`` and vision prompts ``(K, D_v)`` of the blocks from the first on."""

    def text_features(self, block: ClassBlock, tokens: Sequence[Tensor]) -> Tensor:
        """Features ``(C, d)`` of the classes under text prompts, not normalised."""
        assert block.sentences is not None
        return block.sentences.features(text_plan(self.backbone, tokens))

    def image_features(self, pixels: Tensor) -> Tensor:
        plan = vision_plan(self.backbone, self.prompts()[1])
        return F.normalize(self.backbone.images(pixels, plan).cls, dim=-1)

    def class_weights(self, block: ClassBlock) -> Tensor:
        """``f_t`` ``(C, d)``, unit length."""
        return F.normalize(self.text_features(block, self.prompts()[0]), dim=-1)
