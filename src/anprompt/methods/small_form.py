"""Baking: a small form of a method, for prediction only: its prompt tokens, and one weight vector per class."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from anprompt.methods.baked import BakedClasses
from anprompt.methods.base import ClassBlock, Method


class SmallForm(Method):
    """Base of methods that can be baked. Classes that come later, or get new words, are built as before.

    baked_weights: ``(C, d)``, one row for each class of ``baked``. In a block, ``extra["rows"]`` ``(C,)`` says which
    row a class has, -1 for those that are built; ``sentences`` and all else are of the built ones alone.
    """

    baked_weights: Tensor

    def build_block(self, names: Sequence[str], *, trained: bool) -> ClassBlock:
        """What is frozen of classes that are built from sentences. Methods extend this."""
        return super().make_block(names, trained=trained)

    @abstractmethod
    def build_weights(self, block: ClassBlock) -> Tensor:
        """Class weights ``(C, d)`` of the classes of a block that are built from sentences."""

    @abstractmethod
    def small_tensors(self) -> dict[str, Tensor]:
        """What is kept beside the class weights, by name; :class:`UserError` where that is not enough to predict."""

    def make_block(self, names: Sequence[str], *, trained: bool) -> ClassBlock:
        if self.baked is None:
            return self.build_block(names, trained=trained)
        rows = self.baked.rows(names, self.bank, self.template)
        block = ClassBlock(tuple(names), None, trained=trained)
        if built := [name for name, row in zip(names, rows, strict=True) if row < 0]:
            block = replace(self.build_block(built, trained=trained), names=block.names)
        block.extra["rows"] = torch.tensor(rows, device=self.backbone.device)
        return block

    def class_weights(self, block: ClassBlock) -> Tensor:
        if "rows" not in block.extra:
            return self.build_weights(block)
        weights = self.baked_weights[block.extra["rows"]]  # (C, d)
        if block.sentences is not None:
            weights[block.extra["rows"] < 0] = self.build_weights(block)
        return weights

    @torch.no_grad()
    def bake(self, tensors: Mapping[str, Tensor] | None = None, names: Sequence[str] = ()) -> None:
        """Replace all learnables by :meth:`small_tensors` and one weight vector per known class; ends training."""
        read = tensors is not None
        if tensors is None:
            small, names = self.small_tensors(), self.class_names
            tensors = {**small, "baked_weights": torch.cat([self.kept_weights(block) for block in self.blocks])}
        self._parameters, self._modules, self._buffers = {}, {}, {}  # new ones: views share the old
        for key, tensor in tensors.items():
            self.register_buffer(key, tensor.to(self.backbone.device))
        self.baked = BakedClasses.made(names, self.bank, self.template, self.baked, read=read)
        blocks, row = self.blocks, 0
        self.blocks = []  # not changed in place: views share them
        for block in blocks:
            rows = torch.arange(row, row + len(block.names), device=self.backbone.device)
            self.blocks.append(replace(block, sentences=None, plain=None, extra={"rows": rows}, kept=None))
            row += len(block.names)
