"""Classes of which only weights are kept (``Method.bake``), and whether these still say what the bank says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from anprompt.errors import UserError
from anprompt.text import ClassTexts, DescriptionBank

Wording = tuple[str, ClassTexts | None]  # a class's templated name and its sentences, which files do not hold: None


@dataclass(frozen=True)
class BakedClasses:
    """names: in the order of the weights' rows. wording: what the weights were made from, by name."""

    names: tuple[str, ...]
    wording: Mapping[str, Wording]

    @classmethod
    def made(
        cls, names: Sequence[str], bank: DescriptionBank, template: str, before: BakedClasses | None, *, read: bool
    ) -> BakedClasses:
        """Of classes worded by ``bank`` and ``template``. before: what was baked already. read: from a file."""

        def wording(name: str) -> Wording:
            if before is not None and before.keeps(name, bank, template):
                return before.wording[name]
            return bank.fill(template, name), None if read else bank.of(name, template)

        return cls(tuple(names), {name: wording(name) for name in names})

    def keeps(self, name: str, bank: DescriptionBank, template: str) -> bool:
        """Whether class ``name`` is among these, and neither sentences nor template have been replaced since."""
        if name not in self.wording:
            return False
        said, texts = self.wording[name]
        same = name not in bank.main if texts is None else texts == bank.of(name, template)
        return same and said == bank.fill(template, name)

    def rows(self, names: Sequence[str], bank: DescriptionBank, template: str) -> list[int]:
        """Which row of the weights each class has; -1 for those that are made from sentences."""
        return [self.names.index(name) if self.keeps(name, bank, template) else -1 for name in names]

    def check_rewording(self, bank: DescriptionBank, template: str) -> None:
        """Raise :class:`UserError` if ``bank`` says something else of a class whose sentences nobody knows."""
        for name, (_, texts) in self.wording.items():
            if texts is None and name not in bank.main and not self.keeps(name, bank, template):
                raise UserError(
                    f"Class '{name}' cannot be reworded: its adapter is baked, so that its sentences are not known; "
                    "give them, or take the adapter as it was before."
                )
