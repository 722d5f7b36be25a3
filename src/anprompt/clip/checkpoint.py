"""Load a frozen CLIP from a Hugging Face directory, the hub, an OpenAI file or the packaged miniature."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from anprompt.clip.backbone import Backbone
from anprompt.clip.config import ClipConfig, TowerConfig
from anprompt.clip.kernels import ACTIVATIONS
from anprompt.clip.openai_pt import read_openai_pt
from anprompt.clip.preprocess import ImageTransform
from anprompt.clip.tokenizer import TOKENIZER_FILES, ClipTokenizer
from anprompt.errors import Problems, UserError, did_you_mean, unknown_name
from anprompt.files import expanded

MINIATURE = Path(__file__).resolve().parent.parent / "assets" / "miniature"
OPENAI_NAMES = {
    "ViT-B/32": "openai/clip-vit-base-patch32",
    "ViT-B/16": "openai/clip-vit-base-patch16",
    "ViT-L/14": "openai/clip-vit-large-patch14",
    "ViT-L/14@336px": "openai/clip-vit-large-patch14-336",
}
RESNETS = ("RN50", "RN101", "RN50x4", "RN50x16", "RN50x64")
TOKENIZER_REPOSITORY = "openai/clip-vit-base-patch16"  # all of OpenAI's models share one vocabulary
WEIGHT_FILES = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
PICKLED = "pytorch_model.bin"
CHECKPOINT_FILES = ("config.json", "preprocessor_config.json", *TOKENIZER_FILES, *WEIGHT_FILES)

Layout = Literal["hugging_face", "openai"]

# Our names -> theirs. "{}" stands for weight or bias; several names are stacked into one tensor.
OUTER: dict[Layout, dict[str, str]] = {
    "hugging_face": {
        "vision.patch.weight": "vision_model.embeddings.patch_embedding.weight",
        "vision.cls": "vision_model.embeddings.class_embedding",
        "vision.position": "vision_model.embeddings.position_embedding.weight",
        "vision.ln_pre.{}": "vision_model.pre_layrnorm.{}",  # misspelt in the format
        "vision.ln_post.{}": "vision_model.post_layernorm.{}",
        "vision.projection.weight": "visual_projection.weight",
        "text.token.weight": "text_model.embeddings.token_embedding.weight",
        "text.position": "text_model.embeddings.position_embedding.weight",
        "text.ln_final.{}": "text_model.final_layer_norm.{}",
        "text.projection.weight": "text_projection.weight",
    },
    "openai": {
        "vision.patch.weight": "visual.conv1.weight",
        "vision.cls": "visual.class_embedding",
        "vision.position": "visual.positional_embedding",
        "vision.ln_pre.{}": "visual.ln_pre.{}",
        "vision.ln_post.{}": "visual.ln_post.{}",
        "vision.projection.weight": "visual.proj",
        "text.token.weight": "token_embedding.weight",
        "text.position": "positional_embedding",
        "text.ln_final.{}": "ln_final.{}",
        "text.projection.weight": "text_projection",
    },
}
BLOCKS: dict[Layout, dict[str, str]] = {
    "hugging_face": {
        "vision": "vision_model.encoder.layers.",
        "text": "text_model.encoder.layers.",
        "ln_1": "layer_norm1.{}",
        "qkv": "self_attn.q_proj.{} self_attn.k_proj.{} self_attn.v_proj.{}",
        "out": "self_attn.out_proj.{}",
        "ln_2": "layer_norm2.{}",
        "fc": "mlp.fc1.{}",
        "proj": "mlp.fc2.{}",
    },
    "openai": {
        "vision": "visual.transformer.resblocks.",
        "text": "transformer.resblocks.",
        "ln_1": "ln_1.{}",
        "qkv": "attn.in_proj_{}",
        "out": "attn.out_proj.{}",
        "ln_2": "ln_2.{}",
        "fc": "mlp.c_fc.{}",
        "proj": "mlp.c_proj.{}",
    },
}
TRANSPOSED = {"visual.proj", "text_projection"}  # OpenAI multiplies from the right
IGNORED = re.compile(r".*\bposition_ids|attn_mask|input_resolution|context_length|vocab_size")


def load_backbone(name: str | Path | Mapping[str, Tensor], *, tokenizer_from: str | Path | None = None) -> Backbone:
    """Load a frozen CLIP with its tokenizer and image transform; weights become fp32, on the CPU.

    name: one of
        - ``"miniature"``, the packaged small model;
        - a folder in Hugging Face's CLIP format (``config.json``, safetensors, tokenizer files);
        - a hub id such as ``"openai/clip-vit-base-patch16"``, or OpenAI's name for it (``"ViT-B/16"``); the cache under
          ``HF_HOME`` is used first, and alone when ``HF_HUB_OFFLINE=1``;
        - an OpenAI ``.pt`` file, TorchScript archive or state dict; nothing in it is executed;
        - an OpenAI state dict in memory (quick-GELU is assumed, as in all of OpenAI's models).
    tokenizer_from: folder with the tokenizer's files. By default they are taken from beside the weights, or for OpenAI
        files and state dicts that have none, from ``openai/clip-vit-base-patch16``.

    Raises :class:`UserError` when the checkpoint or its tokenizer cannot be had, is damaged, or is no CLIP with a
    vision transformer.
    """
    tokenizer_folder = None if tokenizer_from is None else expanded(tokenizer_from)
    if isinstance(name, Mapping):
        return _from_openai(name, "state dict", tokenizer_folder)
    text = str(name)
    if text == "miniature":
        return _from_folder(MINIATURE, text, tokenizer_folder)
    if text in RESNETS:
        raise UserError(f"'{text}' is a ResNet; only CLIP models with a vision transformer are supported.")
    path = expanded(name)
    if path.is_dir():
        return _from_folder(path, text, tokenizer_folder)
    if path.is_file():
        return _from_file(path, text, tokenizer_folder)
    if text not in OPENAI_NAMES and _looks_like_path(name):
        raise UserError(f"Backbone '{text}': no such file or folder{_existing_part(path)}")
    repository = OPENAI_NAMES.get(text, text)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        allowed = ["miniature", *OPENAI_NAMES, "a hub id (organisation/name)", "a folder", "a .pt file"]
        raise unknown_name("backbone", text, allowed)
    folder = _download(repository, CHECKPOINT_FILES)
    if not any(folder.glob("model*.safetensors")):
        folder = _download(repository, (*CHECKPOINT_FILES, PICKLED))  # fetched only where there is nothing better
    return _from_folder(folder, text, tokenizer_folder)


def _looks_like_path(name: str | Path) -> bool:
    text = str(name)
    return (
        isinstance(name, Path)
        or text.startswith((".", "~", os.sep))
        or text.endswith((".pt", ".pth", ".bin", ".safetensors", "/"))
        or "\\" in text
        or text.count("/") > 1
    )


def _existing_part(path: Path) -> str:
    """What exists of a missing path, with the nearest name there."""
    parent = next((p for p in path.absolute().parents if p.is_dir()), None)
    if parent is None:  # a drive that is not there
        return "."
    wanted = path.absolute().relative_to(parent).parts[0]
    return f"; '{parent}' exists but has no '{wanted}'.{did_you_mean(wanted, os.listdir(parent))}"


def _download(repository: str, files: tuple[str, ...]) -> Path:
    """The folder of a hub repository's snapshot, from the cache or the network."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, allow_patterns=list(files)))
    except Exception as error:  # the hub's client, HTTP stack and file system each have their own errors
        reason = re.split(r"\n|\. |\(Request ID", str(error).strip())[0].rstrip(" .")
        raise UserError(
            f"Backbone '{repository}' is neither a folder here, nor in the Hugging Face cache, nor could it be "
            f"downloaded ({type(error).__name__}: {reason[:200]}). Ways to provide it: download the repository "
            "elsewhere and give its folder; set HF_HOME to a cache that has it; give an OpenAI .pt file; or use "
            "'miniature', which is packaged."
        ) from error


def _shared_tokenizer() -> Path:
    """Folder of the tokenizer that all OpenAI models share."""
    try:
        return _download(TOKENIZER_REPOSITORY, TOKENIZER_FILES)
    except UserError as error:
        raise UserError(
            "These weights carry no tokenizer: put tokenizer.json (or vocab.json and merges.txt) of any OpenAI CLIP "
            f"beside the file or give its folder as tokenizer_from; '{TOKENIZER_REPOSITORY}' is not in the Hugging "
            "Face cache and could not be downloaded."
        ) from error


def _from_file(path: Path, source: str, tokenizer_folder: Path | None) -> Backbone:
    if path.suffix not in (".pt", ".pth"):
        raise UserError(f"{path}: give the folder that holds config.json and the weights, or an OpenAI .pt file.")
    tensors = read_openai_pt(path)
    if tokenizer_folder is None:
        beside = any((path.parent / file).is_file() for file in TOKENIZER_FILES)
        tokenizer_folder = path.parent if beside else None
    return _from_openai(tensors, source, tokenizer_folder)


def _from_folder(folder: Path, source: str, tokenizer_folder: Path | None) -> Backbone:
    """Load a directory in Hugging Face's CLIP format."""
    path = folder / "config.json"
    if not path.is_file():
        raise UserError(f"{folder}: no config.json, so this is not a CLIP in Hugging Face's format.")
    try:
        raw: dict[str, Any] = json.loads(path.read_text("utf-8"))
        model_type = raw.get("model_type", "clip")
        if model_type != "clip":
            raise UserError(f"{path}: model type '{model_type}' is not supported; only 'clip' is.")
        config = ClipConfig.from_hugging_face(raw)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a readable model configuration ({error}).") from error
    tensors = _read_weights(folder)
    return _build(config, tensors, "hugging_face", source, folder, tokenizer_folder or folder)


def _read_weights(folder: Path) -> Mapping[str, Tensor]:
    """All tensors of ``model.safetensors``, of the shards that its index names, or of ``pytorch_model.bin``."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if single.is_file():
        files = [single]
    elif index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
            files = [folder / Path(str(name)).name for name in names]  # shards lie in the folder itself
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{index}: not a readable index of weight files ({error}).") from error
        missing = Problems(f"{folder}: weight files named in {index.name} are missing:")
        for file in files:
            if not file.is_file():
                missing.add(file.name)
        missing.raise_if_any()
    elif (folder / PICKLED).is_file():
        return read_openai_pt(folder / PICKLED)  # older repositories; read as data, nothing in it is executed
    else:
        raise UserError(f"{folder}: no weights; model.safetensors or model.safetensors.index.json is needed.")
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as reader:
                tensors.update({key: reader.get_tensor(key) for key in reader.keys()})  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file}: truncated, damaged or not a safetensors file ({error}).") from error
    return tensors


def _from_openai(tensors: Mapping[str, Tensor], source: str, tokenizer_folder: Path | None) -> Backbone:
    """Load a state dict with OpenAI's names; all sizes follow from the tensors' shapes."""
    if any(key.startswith("visual.layer1.") for key in tensors):
        raise UserError(f"{source}: a ResNet; only CLIP models with a vision transformer are supported.")
    config = _openai_config(tensors, source)
    return _build(config, tensors, "openai", source, None, tokenizer_folder or _shared_tokenizer())


def _openai_config(tensors: Mapping[str, Tensor], source: str) -> ClipConfig:
    def shape(key: str, dims: int) -> tuple[int, ...]:
        if key not in tensors or tensors[key].dim() != dims or 0 in tensors[key].shape:
            raise UserError(f"{source}: not an OpenAI CLIP; '{key}' is missing or not {dims}-dimensional.")
        return tuple(tensors[key].shape)

    def tower(prefix: str, width: int) -> TowerConfig:
        if width % 64:
            raise UserError(f"{source}: the width {width} of '{prefix}' is not a multiple of 64, OpenAI's head width.")
        numbers = {match[1] for key in tensors if (match := re.match(re.escape(prefix) + r"(\d+)\.", key))}
        mlp = shape(f"{prefix}0.mlp.c_fc.bias", 1)[0]
        return TowerConfig(width=width, depth=len(numbers), heads=width // 64, mlp=mlp)

    width, _, patch, _ = shape("visual.conv1.weight", 4)
    grid = math.isqrt(shape("visual.positional_embedding", 2)[0] - 1)
    vocabulary, text_width = shape("token_embedding.weight", 2)
    return ClipConfig(
        vision=tower("visual.transformer.resblocks.", width),
        text=tower("transformer.resblocks.", text_width),
        joint_width=shape("text_projection", 2)[1],
        image_size=grid * patch,
        patch_size=patch,
        vocabulary=vocabulary,
        context=shape("positional_embedding", 2)[0],
        eot_id=vocabulary - 1,
        sot_id=vocabulary - 2,
    )


def _build(
    config: ClipConfig,
    tensors: Mapping[str, Tensor],
    layout: Layout,
    source: str,
    transform_folder: Path | None,
    tokenizer_folder: Path,
) -> Backbone:
    for which, tower in (("vision", config.vision), ("text", config.text)):
        if tower.activation not in ACTIVATIONS:
            raise unknown_name(f"activation of the {which} tower of {source}:", tower.activation, ACTIVATIONS)
        if tower.heads < 1 or tower.width % tower.heads:
            raise UserError(f"{source}: {which} width {tower.width} is not a multiple of its {tower.heads} heads.")
    transform = (
        ImageTransform.from_folder(transform_folder, config.image_size)
        if transform_folder is not None
        else ImageTransform(config.image_size, config.image_size)
    )
    tokenizer = ClipTokenizer.from_folder(
        tokenizer_folder, eot_id=config.eot_id, context=config.context, vocabulary=config.vocabulary
    )
    config = replace(config, sot_id=tokenizer.sot_id)  # old config files name another one that nothing uses
    scale = tensors.get("logit_scale")
    logit_scale = math.exp(float(scale)) if scale is not None and scale.numel() == 1 else math.nan
    with torch.device("meta"):  # no memory and no random initialisation for weights that are replaced at once
        backbone = Backbone(config, tokenizer, transform, source=source, logit_scale=logit_scale)
    backbone.load_state_dict(_own_weights(backbone, tensors, layout, source), assign=True)
    return backbone.requires_grad_(False)


def _their_names(name: str, layout: Layout) -> list[str]:
    """The checkpoint's keys for one of our parameters; more than one are stacked along dimension 0."""
    block = re.fullmatch(r"(vision|text)\.blocks\.(\d+)\.(\w+)\.(weight|bias)", name)
    if block is not None:
        tower, number, part, kind = block.groups()
        prefix = BLOCKS[layout][tower] + number + "."
        return [prefix + key.format(kind) for key in BLOCKS[layout][part].split()]
    if name in OUTER[layout]:
        return [OUTER[layout][name]]
    stem, kind = name.rsplit(".", 1)
    return [OUTER[layout][stem + ".{}"].format(kind)]


def _own_weights(backbone: Backbone, tensors: Mapping[str, Tensor], layout: Layout, source: str) -> dict[str, Tensor]:
    """Rename and reshape a checkpoint's tensors to our parameters, as fp32 copies; all mismatches in one error."""
    problems = Problems(f"{source}: the weights do not fit the model:", limit=8)
    if "logit_scale" not in tensors or tensors["logit_scale"].numel() != 1:
        problems.add("missing or not a single number: logit_scale")
    used = {"logit_scale"}
    sources: dict[str, list[str]] = {}
    for name, parameter in backbone.state_dict().items():
        keys = sources[name] = _their_names(name, layout)
        used.update(keys)
        wanted = [parameter.shape[0] // len(keys), *parameter.shape[1:]]
        for key in keys:
            expected = wanted[::-1] if key in TRANSPOSED else wanted
            if key not in tensors:
                problems.add(f"missing: {key}")
            elif list(tensors[key].shape) != expected:
                problems.add(f"{key}: shape {list(tensors[key].shape)} instead of {expected}")
    for key in tensors:
        if key not in used and not IGNORED.fullmatch(key):
            problems.add(f"unexpected: {key}")
    problems.raise_if_any()
    own = {}
    for name, keys in sources.items():
        parts = [(tensors[key].T if key in TRANSPOSED else tensors[key]).detach() for key in keys]
        own[name] = torch.cat(parts).to("cpu", torch.float32)  # cat copies, also a single part
    return own
