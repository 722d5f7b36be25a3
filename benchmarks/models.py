"""What is measured: backbones with random weights or from a folder, class names of uneven lengths, batches."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anprompt import methods
from anprompt.clip import Backbone, ClipConfig, ImageTransform, TowerConfig, load_backbone
from anprompt.clip.checkpoint import _their_names
from anprompt.errors import UserError
from anprompt.text import DEFAULT_TEMPLATE, fill

RANDOM = "vit-b-16"
# Share of classes by number of tokens that only they have, full stop and EOT included: mean 4.5, at most 8, about as
# measured over the classes of ImageNet, Caltech101 and their like with CLIP's vocabulary.
LENGTHS = {3: 0.25, 4: 0.35, 5: 0.20, 6: 0.10, 7: 0.06, 8: 0.04}


def build_backbone(name: str, *, seed: int = 1, precision: str = "fp32", device: str = "cpu") -> Backbone:
    """``"vit-b-16"``: the sizes of CLIP ViT-B/16 with random weights and the packaged tokenizer; else what
    :func:`anprompt.load_backbone` takes."""
    backbone = _random_vit_b_16(seed) if name == RANDOM else load_backbone(name)
    return backbone.to(device).in_precision(precision)


def short_name(name: str) -> str:
    """The backbone's name in files: a folder's last part."""
    return Path(name).name


def _random_vit_b_16(seed: int) -> Backbone:
    packaged = load_backbone("miniature")
    config = ClipConfig(
        vision=TowerConfig(width=768, depth=12, heads=12, mlp=3072),
        text=TowerConfig(width=512, depth=12, heads=8, mlp=2048),
        joint_width=512, image_size=224, patch_size=16, vocabulary=49408, context=77,
        eot_id=packaged.config.eot_id, sot_id=packaged.config.sot_id,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = Backbone(config, packaged.tokenizer, ImageTransform(224, 224), source=RANDOM, logit_scale=100.0)
        for table in (backbone.vision.position, backbone.vision.cls, backbone.text.position):
            torch.nn.init.normal_(table, std=0.02)
    return backbone


def class_names(backbone: Backbone, count: int, seed: int = 1) -> list[str]:
    """``count`` different names whose lengths in tokens are spread as :data:`LENGTHS` says.

    Made of words that the tokenizer has as one token, so that the lengths are the same with every vocabulary.
    """
    tokenizer, rng = backbone.tokenizer, random.Random(seed)
    pieces = sorted(tokenizer._tokenizer.get_vocab())
    words = [p.removesuffix("</w>") for p in pieces if p.endswith("</w>") and p[:-4].isascii() and p[:-4].isalpha()]
    words = [w for w in words if w.islower()]
    words = [w for w, ids in zip(words, tokenizer.encode(words), strict=True) if len(ids) == 3]
    lengths = [n - 2 for n, share in LENGTHS.items() for _ in range(round(share * count))]
    lengths = (lengths + [2] * count)[:count]  # what rounding left
    rng.shuffle(lengths)
    names: dict[str, None] = {}
    for length in lengths:
        name = " ".join(rng.choices(words, k=length))
        for _ in range(1000):
            if name not in names:
                break
            name = " ".join(rng.choices(words, k=length))
        else:
            raise UserError(f"{count} class names: the tokenizer of '{backbone.source}' has only {len(words)} words.")
        names[name] = None
    return list(names)


def own_tokens(backbone: Backbone, names: Sequence[str], template: str = DEFAULT_TEMPLATE) -> list[int]:
    """Tokens of each filled template behind those that all have in common, EOT included."""
    ids = backbone.tokenizer.encode(fill(template, names))
    shared = next((i for i, column in enumerate(zip(*ids, strict=False)) if len(set(column)) > 1), 0)
    return [len(row) - shared for row in ids]


def build_method(backbone: Backbone, classes: int, seed: int = 1) -> methods.Method:
    """ANPrompt, preset ``paper``, with ``classes`` classes in front of it, ready to train."""
    return methods.create("anprompt", backbone, class_names(backbone, classes, seed), seed=seed)


def random_batch(backbone: Backbone, classes: int, size: int, seed: int = 1) -> dict[str, Tensor]:
    """Pixels ``(B, 3, H, W)`` and labels ``(B,)``."""
    generator = torch.Generator().manual_seed(seed)
    side = backbone.config.image_size
    batch = {
        "pixels": torch.randn(size, 3, side, side, generator=generator),
        "labels": torch.randint(classes, (size,), generator=generator),
    }
    return {name: tensor.to(backbone.device) for name, tensor in batch.items()}


def transformers_twin(backbone: Backbone) -> Any:
    """A ``transformers.CLIPModel`` with the weights of ``backbone``, in fp32. May raise :class:`ImportError`."""
    from transformers import CLIPConfig, CLIPModel

    c = backbone.config

    def tower(sizes: TowerConfig) -> dict[str, Any]:
        return {
            "hidden_size": sizes.width, "num_hidden_layers": sizes.depth, "num_attention_heads": sizes.heads,
            "intermediate_size": sizes.mlp, "hidden_act": sizes.activation, "layer_norm_eps": sizes.eps,
        }  # fmt: skip

    text = {**tower(c.text), "vocab_size": c.vocabulary, "max_position_embeddings": c.context,
            "bos_token_id": c.sot_id, "eos_token_id": c.eot_id, "pad_token_id": c.eot_id}  # fmt: skip
    vision = {**tower(c.vision), "image_size": c.image_size, "patch_size": c.patch_size}
    with torch.device("meta"):
        twin: Any = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=c.joint_width))
    tensors = {"logit_scale": torch.tensor(backbone.logit_scale).log()}
    for name, tensor in backbone.state_dict().items():
        keys = _their_names(name, "hugging_face")  # queries, keys and values are one tensor here, three there
        tensors.update(zip(keys, tensor.cpu().chunk(len(keys)), strict=True))
    missing = twin.load_state_dict(tensors, strict=False, assign=True)
    assert not missing.unexpected_keys, missing
    for tower_module in (twin.vision_model, twin.text_model):  # not in the state dict
        embeddings = tower_module.embeddings
        embeddings.position_ids = torch.arange(embeddings.position_embedding.num_embeddings)[None]
    twin.requires_grad_(False).eval()
    return twin.to(backbone.device)
