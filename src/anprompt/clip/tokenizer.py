"""CLIP's byte-pair encoding, from the files that lie beside the weights."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor

from anprompt.errors import Problems, UserError

SOT, EOT = "<|startoftext|>", "<|endoftext|>"
TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "merges.txt")


def clean(text: str) -> str:
    """Undo HTML escapes (twice, as web captions often carry ``&amp;amp;``), collapse white space and strip.

    As OpenAI's CLIP does, but without its repair of broken encodings (``ftfy``). Lower-casing is left to the tokenizer.
    """
    return " ".join(html.unescape(html.unescape(text)).split())


def clip_bpe(vocabulary: dict[str, int], merges: Sequence[tuple[str, str]]) -> Tokenizer:
    """Build CLIP's tokenizer from its two tables.

    vocabulary: token -> id, in byte-level spelling, word ends marked ``</w>``; holds ``<|startoftext|>`` and
    ``<|endoftext|>``. merges: pairs in order of rank.
    """
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges), end_of_word_suffix="</w>", unk_token=EOT))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    # Words are contractions, runs of letters, single digits and runs of other signs.
    words = Regex(r"'(?:s|t|re|ve|m|ll|d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (SOT, EOT)])
    return tokenizer


def _read(folder: Path) -> Tokenizer:
    whole, vocab, merges = (folder / name for name in TOKENIZER_FILES)
    if whole.is_file():
        try:
            return Tokenizer.from_file(str(whole))
        except Exception as error:  # `tokenizers` raises bare Exception
            raise UserError(f"{whole}: not a readable tokenizer file ({error}).") from error
    if vocab.is_file() and merges.is_file():
        try:
            table = json.loads(vocab.read_text("utf-8"))
            lines = merges.read_text("utf-8").splitlines()
            pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
            return clip_bpe(table, pairs)  # type: ignore[arg-type]  # a line that is no pair is refused by BPE
        except Exception as error:
            raise UserError(f"{vocab} and {merges.name}: not a readable byte-pair vocabulary ({error}).") from error
    raise UserError(
        f"{folder}: no tokenizer; put the checkpoint's tokenizer.json (or vocab.json and merges.txt) there."
    )


class ClipTokenizer:
    """Turns sentences into token ids ``[SOT … EOT 0 0 …]`` of CLIP's fixed context length.

    tokenizer: the byte-pair encoder, without padding or truncation. sot_id, eot_id: start and end of a text.
    context: number of positions of the text tower, SOT and EOT included.
    """

    def __init__(self, tokenizer: Tokenizer, *, sot_id: int, eot_id: int, context: int) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self.sot_id, self.eot_id, self.context = sot_id, eot_id, context

    @staticmethod
    def from_folder(folder: Path, *, eot_id: int, context: int, vocabulary: int) -> ClipTokenizer:
        """Read ``tokenizer.json``, or ``vocab.json`` and ``merges.txt``, and check that it fits the text tower.

        vocabulary: rows of the token embedding. Raises :class:`UserError` for missing or unreadable files and for a
        tokenizer of another model.
        """
        tokenizer = _read(folder)
        sot, eot = tokenizer.token_to_id(SOT), tokenizer.token_to_id(EOT)
        if sot is None or eot != eot_id or tokenizer.get_vocab_size() > vocabulary:
            raise UserError(
                f"{folder}: the tokenizer belongs to another model: it has {tokenizer.get_vocab_size()} tokens, {SOT} "
                f"is {sot} and {EOT} is {eot}; the weights are for {vocabulary} tokens and {EOT} as {eot_id}."
            )
        return ClipTokenizer(tokenizer, sot_id=sot, eot_id=eot_id, context=context)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, SOT and EOT included, of whatever length."""
        encoded = self._tokenizer.encode_batch([clean(text) for text in texts], add_special_tokens=False)
        return [[self.sot_id, *item.ids, self.eot_id] for item in encoded]

    def count(self, text: str) -> int:
        """Number of tokens of ``text``, SOT and EOT included; it fits when this is at most ``context``."""
        return len(self.encode([text])[0])

    def __call__(self, texts: Sequence[str], *, truncate: bool = False) -> Tensor:
        """Token ids ``(N, context)``, int64, padded with 0 behind EOT (no position there can influence EOT's).

        truncate: cut texts that are too long, keeping EOT, instead of raising :class:`UserError` that names them all.
        """
        if isinstance(texts, str):
            raise TypeError("texts must be a sequence of strings, not one string")
        rows = self.encode(texts)
        problems = Problems(f"Texts longer than the text tower's {self.context} tokens (start and end included):")
        ids = torch.zeros(len(rows), self.context, dtype=torch.long)  # (N, context)
        for i, (text, row) in enumerate(zip(texts, rows, strict=True)):
            if len(row) > self.context:
                problems.add(f"{len(row)} tokens: '{text[:60]}{'…' if len(text) > 60 else ''}'")
                row = [*row[: self.context - 1], self.eot_id]
            ids[i, : len(row)] = torch.tensor(row)
        if not truncate:
            problems.raise_if_any()
        return ids
