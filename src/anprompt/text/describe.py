"""A description bank without any server: from templates, and from WordNet's glosses where it is installed."""

from __future__ import annotations

from collections.abc import Sequence

from anprompt.text.bank import DescriptionBank
from anprompt.text.templates import DEFAULT_TEMPLATE, PARAPHRASES, fill
from anprompt.text.wordnet import WordNet

LONGEST = 40  # words of a gloss: CLIP reads 77 tokens


def offline_bank(names: Sequence[str], wordnet: WordNet | None = None) -> DescriptionBank:
    """Main: the plain template, and the name with WordNet's gloss for it. Noise: neutral paraphrases of the template.

    Names that WordNet does not know as a whole have no gloss. It knows what a name mostly means, not what you mean.
    """
    main: dict[str, list[str]] = {}
    glossed = 0
    for name in names:
        main[name] = fill(DEFAULT_TEMPLATE, [name])
        for gloss in wordnet.glosses(name) if wordnet is not None else ():
            short = gloss.partition(";")[0].strip()
            if len(short.split()) <= LONGEST:
                main[name].append(f"a photo of a {name}, {short}.")
                glossed += 1
    noise = {name: [template.replace("{}", name) for template in PARAPHRASES] for name in names}
    source = "templates" if wordnet is None else f"templates and WordNet's glosses of {glossed} names"
    return DescriptionBank(main, noise, source)
