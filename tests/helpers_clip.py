"""Small random CLIPs and a small vocabulary, made on the fly: tests need no files and no network."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from torch import nn

from anprompt.clip import Backbone, ClipConfig, ClipTokenizer, ImageTransform, TowerConfig
from anprompt.clip.tokenizer import EOT, SOT, clip_bpe

WORDS = (  # noqa: SIM905
    "a photo of the an image picture this is with on in and small large red green blue striped dotted circle square "
    "triangle star cat dog animal house street satellite forest river lake field crop road bright dark night sketch"
).split()


def small_tables() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges in CLIP's format: all bytes, plain and at a word's end, :data:`WORDS`, SOT, EOT."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*alphabet, *(f"{sign}</w>" for sign in alphabet)])}
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        left = word[0]
        for i, sign in enumerate(word[1:], start=2):
            right = sign if i < len(word) else f"{sign}</w>"
            if (left, right) not in merges:
                merges.append((left, right))
            left += right
            vocabulary.setdefault(left, len(vocabulary))
    for token in (SOT, EOT):
        vocabulary[token] = len(vocabulary)
    return vocabulary, merges


def small_tokenizer(context: int = 77) -> ClipTokenizer:
    vocabulary, merges = small_tables()
    bpe = clip_bpe(vocabulary, merges)
    return ClipTokenizer(bpe, sot_id=vocabulary[SOT], eot_id=vocabulary[EOT], context=context)


def write_tokenizer(folder: Path, *, whole: bool = True) -> None:
    """Write the small vocabulary as ``tokenizer.json``, or as ``vocab.json`` and ``merges.txt``."""
    vocabulary, merges = small_tables()
    folder.mkdir(parents=True, exist_ok=True)
    if whole:
        clip_bpe(vocabulary, merges).save(str(folder / "tokenizer.json"))
        return
    (folder / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")


@torch.no_grad()
def randomise(model: nn.Module, seed: int = 0) -> None:
    """Give all weights a size at which signals neither vanish nor explode and features differ between inputs."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=generator)
        is_norm = parameter.dim() == 1 and name.endswith("weight")
        if is_norm:
            parameter.copy_(1 + 0.1 * noise)
        elif name.endswith("logit_scale"):
            parameter.fill_(math.log(50.0))
        elif parameter.dim() < 2:
            parameter.copy_(0.1 * noise)
        elif "token" in name or "position" in name:
            parameter.copy_(0.5 * noise)
        else:
            parameter.copy_(noise / math.sqrt(parameter[0].numel()))


def random_backbone(
    *,
    seed: int = 0,
    vision_width: int = 32,
    vision_depth: int = 12,
    vision_heads: int = 2,
    text_width: int = 24,
    text_depth: int = 12,
    text_heads: int = 2,
    joint_width: int = 16,
    image_size: int = 32,
    patch_size: int = 8,
    context: int = 77,
    activation: str = "quick_gelu",
    logit_scale: float = 100.0,
) -> Backbone:
    """A small random :class:`Backbone`; the same seed and sizes give the same weights."""
    tokenizer = small_tokenizer(context)
    config = ClipConfig(
        vision=TowerConfig(vision_width, vision_depth, vision_heads, 4 * vision_width, activation),
        text=TowerConfig(text_width, text_depth, text_heads, 4 * text_width, activation),
        joint_width=joint_width,
        image_size=image_size,
        patch_size=patch_size,
        vocabulary=len(small_tables()[0]),
        context=context,
        eot_id=tokenizer.eot_id,
        sot_id=tokenizer.sot_id,
    )
    transform = ImageTransform(image_size, image_size)
    backbone = Backbone(config, tokenizer, transform, source="random", logit_scale=logit_scale)
    randomise(backbone, seed)
    return backbone


def hugging_face_model(vision: dict[str, Any], text: dict[str, Any], joint_width: int, seed: int = 0) -> Any:
    """A random ``transformers.CLIPModel``, the oracle; the small vocabulary's ids are filled in.

    vision, text: entries of ``CLIPVisionConfig`` and ``CLIPTextConfig``.
    """
    from transformers import CLIPConfig, CLIPModel

    vocabulary = small_tables()[0]
    ids = {"vocab_size": len(vocabulary), "bos_token_id": vocabulary[SOT], "eos_token_id": vocabulary[EOT]}
    config = CLIPConfig(
        text_config={**ids, "pad_token_id": vocabulary[EOT], **text}, vision_config=vision, projection_dim=joint_width
    )
    model = CLIPModel(config).eval()
    randomise(model, seed)
    return model


def sizes(width: int, depth: int, heads: int, mlp: int, activation: str = "quick_gelu") -> dict[str, Any]:
    """One tower's sizes under the names of Hugging Face's configuration."""
    return {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": mlp,
        "hidden_act": activation,
    }
