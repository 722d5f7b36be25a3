"""Writes and measures the packaged miniature CLIP: the Hugging Face directory and its zero-shot accuracy."""

from __future__ import annotations

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save as to_safetensors
from tokenizers import Tokenizer
from torch import Tensor

from anprompt.clip.backbone import Backbone
from anprompt.clip.checkpoint import BLOCKS, OUTER, load_backbone
from anprompt.clip.preprocess import CLIP_MEAN, CLIP_STD
from anprompt.clip.tokenizer import EOT, SOT
from anprompt.data import toyworld


@torch.no_grad()
def accuracy(
    model: Backbone, domain: str, vocabulary: str, per_class: int, *, mean_of_descriptions: bool = False
) -> dict[str, float]:
    """Zero-shot accuracy in per cent on the classes of ``all``, ``base`` and ``new``, each among its own classes."""
    data = toyworld.load(domain, vocabulary, train=0, val=0, test=per_class)
    items = data.splits["test"]
    pixels = model.transform.normalise(
        torch.from_numpy(np.stack([np.asarray(data.open(item)) for item in items])).permute(0, 3, 1, 2)
    )
    images = torch.cat([model.encode_image(part) for part in torch.split(pixels, 256)])
    if mean_of_descriptions:
        assert data.descriptions is not None
        bank = data.descriptions["main"]
        rows = model.encode_text([s for name in data.classes for s in bank[name]])
        texts = F.normalize(rows.view(len(data.classes), -1, rows.shape[1]).mean(1), dim=-1)
    else:
        texts = model.encode_text([data.template.format(name) for name in data.classes])
    logits, labels = images @ texts.T, torch.tensor([item.label for item in items])
    half = (len(data.classes) + 1) // 2
    out = {}
    for subset, low, high in (("all", 0, len(data.classes)), ("base", 0, half), ("new", half, len(data.classes))):
        chosen = (labels >= low) & (labels < high)
        hit = logits[chosen, low:high].argmax(1) + low == labels[chosen]
        out[subset] = round(100 * float(hit.float().mean()), 1)
    return out


def measure(model: Backbone, per_class: int = 20) -> dict[str, Any]:
    """Zero-shot accuracy for every vocabulary and domain, by template and by the mean of the main descriptions."""
    return {
        vocabulary: {
            domain: {
                "template": accuracy(model, domain, vocabulary, per_class),
                "descriptions": accuracy(model, domain, vocabulary, per_class, mean_of_descriptions=True),
            }
            for domain in toyworld.DOMAINS
        }
        for vocabulary in toyworld.VOCABULARIES
    }


def write(path: Path, content: bytes) -> None:
    """Replace a file in one step."""
    temporary = path.with_name(f".{path.name}.part")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def hugging_face_tensors(model: Backbone, scale: float) -> dict[str, Tensor]:
    """The weights in fp16 under the names of ``transformers.CLIPModel``."""
    outer, inner = OUTER["hugging_face"], BLOCKS["hugging_face"]
    out: dict[str, Tensor] = {"logit_scale": torch.tensor(math.log(scale))}
    for name, tensor in model.state_dict().items():
        head, _, kind = name.rpartition(".")
        if ".blocks." in name:
            tower, _, number, part = head.split(".")
            theirs = [f"{inner[tower]}{number}.{t.format(kind)}" for t in inner[part].split()]
        else:
            theirs = [outer[name] if name in outer else outer[f"{head}.{{}}"].format(kind)]
        pieces = tensor.half().chunk(len(theirs))  # queries, keys and values are one tensor here, three there
        out.update({key: piece.contiguous() for key, piece in zip(theirs, pieces, strict=True)})
    return out


def save_directory(folder: Path, model: Backbone, tokenizer: Tokenizer, scale: float) -> str:
    """Write a Hugging Face CLIP directory and return the SHA-256 of its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    c = model.config
    tower = {
        "hidden_size": c.vision.width, "intermediate_size": c.vision.mlp, "num_hidden_layers": c.vision.depth,
        "num_attention_heads": c.vision.heads, "hidden_act": c.vision.activation, "layer_norm_eps": c.vision.eps,
        "projection_dim": c.joint_width, "attention_dropout": 0.0,
    }  # fmt: skip
    config = {
        "architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": c.joint_width, "dtype": "float16",
        "logit_scale_init_value": math.log(scale),
        "text_config": {
            **tower, "model_type": "clip_text_model", "vocab_size": c.vocabulary, "max_position_embeddings": c.context,
            "bos_token_id": c.sot_id, "eos_token_id": c.eot_id, "pad_token_id": c.eot_id,
        },
        "vision_config": {
            **tower, "model_type": "clip_vision_model", "image_size": c.image_size, "patch_size": c.patch_size,
            "num_channels": 3,
        },
    }  # fmt: skip
    preprocessing = {
        "crop_size": {"height": c.image_size, "width": c.image_size}, "size": {"shortest_edge": c.image_size},
        "do_center_crop": True, "do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True,
        "image_mean": list(CLIP_MEAN), "image_std": list(CLIP_STD), "image_processor_type": "CLIPImageProcessor",
        "resample": 3, "rescale_factor": 1 / 255,
    }  # fmt: skip
    words = {
        "tokenizer_class": "CLIPTokenizer", "model_max_length": c.context, "bos_token": SOT, "eos_token": EOT,
        "pad_token": EOT, "unk_token": EOT,
    }  # fmt: skip
    tables = {"config.json": config, "preprocessor_config.json": preprocessing, "tokenizer_config.json": words}
    for name, table in tables.items():
        write(folder / name, (json.dumps(table, indent=2) + "\n").encode())
    write(folder / "tokenizer.json", tokenizer.to_str().encode())
    weights = to_safetensors(hugging_face_tensors(model, scale), metadata={"format": "pt"})
    write(folder / "model.safetensors", weights)
    return hashlib.sha256(weights).hexdigest()


def remeasure(folder: Path) -> None:
    """Measure the saved directory, as users load it, and write the numbers into its recipe.json."""
    path = folder / "recipe.json"
    recipe = json.loads(path.read_text("utf-8"))
    recipe["zero_shot"] = measure(load_backbone(folder))
    write(path, (json.dumps(recipe, indent=2) + "\n").encode())
    print(json.dumps(recipe["zero_shot"]))
