"""Sizes of a dual encoder, always read from a checkpoint, never assumed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TowerConfig:
    """Sizes of one transformer.

    ``width``: channels D; ``depth``: number of blocks; ``heads``: attention heads; ``mlp``: hidden channels of the MLP;
    ``activation``: ``"quick_gelu"`` (OpenAI's x·σ(1.702x)) or ``"gelu"``; ``eps``: of the layer norms.
    """

    width: int
    depth: int
    heads: int
    mlp: int
    activation: str = "quick_gelu"
    eps: float = 1e-5


@dataclass(frozen=True)
class ClipConfig:
    """Sizes of both towers. ``joint_width`` d is the width of the shared embedding."""

    vision: TowerConfig
    text: TowerConfig
    joint_width: int
    image_size: int
    patch_size: int
    vocabulary: int
    context: int
    eot_id: int
    sot_id: int

    @property
    def patches(self) -> int:
        """Number of patch tokens M, without CLS."""
        return (self.image_size // self.patch_size) ** 2

    @staticmethod
    def from_hugging_face(raw: dict[str, Any]) -> ClipConfig:
        """Read the ``config.json`` of a Hugging Face CLIP repository.

        Keys that older files leave out have the defaults of ViT-B/32, as in ``transformers``. Files of 2022 carry
        ``eos_token_id: 2`` although the tokenizer's end token is the last entry of the vocabulary; the last entry wins.
        """
        vision, text = raw.get("vision_config") or {}, raw.get("text_config") or {}
        joint = int(raw.get("projection_dim", text.get("projection_dim", 512)))
        vocabulary = int(text.get("vocab_size", 49408))
        eot = int(text.get("eos_token_id", 2))
        sot = int(text.get("bos_token_id", 0))
        if eot <= 2:
            eot, sot = vocabulary - 1, vocabulary - 2
        return ClipConfig(
            vision=TowerConfig(
                width=int(vision.get("hidden_size", 768)),
                depth=int(vision.get("num_hidden_layers", 12)),
                heads=int(vision.get("num_attention_heads", 12)),
                mlp=int(vision.get("intermediate_size", 3072)),
                activation=str(vision.get("hidden_act", "quick_gelu")),
                eps=float(vision.get("layer_norm_eps", 1e-5)),
            ),
            text=TowerConfig(
                width=int(text.get("hidden_size", 512)),
                depth=int(text.get("num_hidden_layers", 12)),
                heads=int(text.get("num_attention_heads", 8)),
                mlp=int(text.get("intermediate_size", 2048)),
                activation=str(text.get("hidden_act", "quick_gelu")),
                eps=float(text.get("layer_norm_eps", 1e-5)),
            ),
            joint_width=joint,
            image_size=int(vision.get("image_size", 224)),
            patch_size=int(vision.get("patch_size", 32)),
            vocabulary=vocabulary,
            context=int(text.get("max_position_embeddings", 77)),
            eot_id=eot,
            sot_id=sot,
        )
