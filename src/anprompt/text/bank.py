"""Description banks: several sentences per class, in two kinds (paper, section III-B).

*Main* sentences carry the meaning of a class, *noise* sentences say it in other words. The paper takes the main ones
from CoPrompt's files and the noise from HPT's; both are JSON objects ``{class: [sentence, …]}``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from anprompt.text.templates import PARAPHRASES, fill

Rewrite = Callable[[str, str], str]  # (class name, sentence) -> the same in other words


@dataclass(frozen=True)
class ClassTexts:
    """Sentences of one class. ``described`` is false when they were made from templates because the bank has none."""

    name: str
    main: tuple[str, ...]
    noise: tuple[str, ...]
    described: bool = True


@dataclass(frozen=True)
class DescriptionBank:
    """Main and noise sentences by class name. Classes may have unequal numbers of sentences, or none.

    source: where the sentences come from, for records. rewrite: puts sentences that are made from templates into other
    words; rename: names that stand alone, behind learned words. :meth:`reworded` sets them.
    whole: classes whose name is a sentence already, so that no template frames it.
    """

    main: Mapping[str, Sequence[str]] = field(default_factory=dict)
    noise: Mapping[str, Sequence[str]] = field(default_factory=dict)
    source: str = "templates"
    rewrite: Rewrite | None = None
    whole: frozenset[str] = frozenset()
    rename: Rewrite | None = None

    def fill(self, template: str, name: str) -> str:
        """The sentence of class ``name`` that ``template`` makes. Every method words its classes through this."""
        (sentence,) = [name] if name in self.whole else fill(template, [name])
        return sentence if self.rewrite is None else self.rewrite(name, sentence)

    def name(self, name: str) -> str:
        """The words of class ``name`` where no sentence is around them."""
        change = self.rewrite if name in self.whole else self.rename
        return name if change is None else change(name, name)

    def paraphrases(self, name: str) -> tuple[str, ...]:
        """Neutral ways to say "here is a ``name``"."""
        return tuple(self.fill(template, name) for template in PARAPHRASES)

    def reworded(self, rewrite: Rewrite, rename: Rewrite | None = None) -> DescriptionBank:
        """A bank whose every sentence, made from templates or not, went through ``rewrite``; not for reworded banks.

        rename: for names that stand alone; ``None``: they stay.
        """

        def changed(part: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
            return {name: [rewrite(name, sentence) for sentence in own] for name, own in part.items()}

        return replace(self, main=changed(self.main), noise=changed(self.noise), rewrite=rewrite, rename=rename)

    def of(self, name: str, template: str) -> ClassTexts:
        """The sentences of class ``name``.

        Without any, the filled ``template`` is the main sentence and neutral paraphrases are the noise. With main
        sentences only, the noise is drawn from the main ones too: one wording as variation of another.
        """
        main, noise = tuple(self.main.get(name, ())), tuple(self.noise.get(name, ()))
        if not main:
            return ClassTexts(name, (self.fill(template, name),), self.paraphrases(name), described=False)
        return ClassTexts(name, main, noise or (main if len(main) > 1 else self.paraphrases(name)))

    def with_class(self, name: str, descriptions: Sequence[str]) -> DescriptionBank:
        """A bank that also has ``descriptions`` as the main sentences of ``name``."""
        return replace(self, main={**self.main, name: list(descriptions)})

    def completed(self, more: DescriptionBank, settled: Sequence[str] = ()) -> DescriptionBank:
        """This bank, and from ``more`` what it lacks; nothing about the ``settled`` classes. For sentences as given."""
        added = [{name: own for name, own in part.items() if name not in settled} for part in (more.main, more.noise)]
        return DescriptionBank({**added[0], **self.main}, {**added[1], **self.noise}, self.source)

    def to_json(self) -> dict[str, dict[str, list[str]]]:
        """``{"main": {class: […]}, "noise": {class: […]}}``, the format that :func:`read_bank` reads back."""
        return {
            "main": {name: list(texts) for name, texts in self.main.items()},
            "noise": {name: list(texts) for name, texts in self.noise.items()},
        }
