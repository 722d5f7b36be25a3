"""Loading checkpoints and tokenizers: every accepted form, and one clear sentence for every fault."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from anprompt.clip import Backbone, load_backbone
from anprompt.errors import UserError
from helpers_clip import (
    hugging_face_model,
    random_backbone,
    sizes,
    small_tables,
    write_tokenizer,
)


@pytest.fixture(scope="module")
def model() -> Any:
    """Heads of 64 channels, as in all of OpenAI's models."""
    vision = {**sizes(128, 3, 2, 512), "image_size": 32, "patch_size": 8}
    return hugging_face_model(vision, {**sizes(64, 2, 1, 256), "max_position_embeddings": 20}, 48)


@pytest.fixture
def folder(model: Any, tmp_path: Path) -> Path:
    """A complete checkpoint in Hugging Face's format."""
    model.save_pretrained(tmp_path / "clip")
    write_tokenizer(tmp_path / "clip")
    return tmp_path / "clip"


@pytest.fixture
def reference(folder: Path) -> Backbone:
    return load_backbone(folder)


def change(folder: Path, **entries: Any) -> None:
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, **entries}))


def same_weights(a: Backbone, b: Backbone) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


# Hugging Face directories


def test_a_folder_gives_a_frozen_backbone(folder: Path) -> None:
    backbone = load_backbone(str(folder))
    assert (backbone.vision.depth, backbone.text.depth, backbone.config.joint_width) == (3, 2, 48)
    assert backbone.logit_scale == pytest.approx(50.0, rel=1e-6)
    assert backbone.source == str(folder)
    assert (backbone.transform.size, backbone.transform.crop) == (32, 32)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not backbone.training
    assert all(parameter.device.type == "cpu" for parameter in backbone.parameters())
    assert same_weights(backbone, load_backbone(folder))


def test_position_ids_of_old_files_are_ignored(folder: Path, reference: Backbone) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["text_model.embeddings.position_ids"] = torch.arange(20)[None]
    save_file(tensors, folder / "model.safetensors")
    assert same_weights(load_backbone(folder), reference)


def test_all_weights_that_do_not_fit_are_named_at_once(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["vision_model.encoder.layers.1.self_attn.k_proj.weight"]
    tensors["text_projection.weight"] = torch.zeros(48, 63)
    tensors["extra.weight"] = torch.zeros(1)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError) as error:
        load_backbone(folder)
    assert "missing: vision_model.encoder.layers.1.self_attn.k_proj.weight" in str(error.value)
    assert "text_projection.weight: shape [48, 63] instead of [48, 64]" in str(error.value)
    assert "unexpected: extra.weight" in str(error.value)


def test_an_older_repository_with_a_pickled_state_dict_is_read_as_data(folder: Path, reference: Backbone) -> None:
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    assert same_weights(load_backbone(folder), reference)


def damage(folder: Path, what: str) -> None:
    weights = folder / "model.safetensors"
    if what == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif what == "pickle":
        weights.rename(folder / "pytorch_model.bin")
    elif what == "no weights":
        weights.unlink()
    elif what == "lost shards":
        weights.unlink()
        index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    elif what == "broken index":
        weights.unlink()
        (folder / "model.safetensors.index.json").write_text("{}")
    elif what == "no config":
        (folder / "config.json").unlink()
    elif what == "broken config":
        (folder / "config.json").write_text('{"vision_config": ')
    elif what == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    elif what == "broken tokenizer":
        (folder / "tokenizer.json").write_text("{}")
    elif what == "broken merges":
        (folder / "tokenizer.json").unlink()
        write_tokenizer(folder, whole=False)
        (folder / "merges.txt").write_text("a b c\n")
    else:
        change(folder, **json.loads(what))


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("truncated", "model.safetensors: truncated, damaged"),
        ("pickle", "pytorch_model.bin"),
        ("no weights", "no weights; model.safetensors"),
        ("lost shards", r"(?s)are missing:.*model-1.safetensors.*model-2.safetensors"),
        ("broken index", "not a readable index"),
        ("no config", "no config.json"),
        ("broken config", "config.json: not a readable model configuration"),
        ("no tokenizer", "no tokenizer; put the checkpoint's tokenizer.json"),
        ("broken tokenizer", "tokenizer.json: not a readable tokenizer"),
        ("broken merges", "not a readable byte-pair vocabulary"),
        ('{"model_type": "siglip"}', "model type 'siglip' is not supported"),
        ('{"text_config": {"eos_token_id": 5, "vocab_size": 900}}', "tokenizer belongs to another model"),
        ('{"vision_config": {"hidden_act": "gelo"}}', "gelo.*Did you mean 'gelu'"),
        ('{"vision_config": {"hidden_size": 100, "num_attention_heads": 3}}', "width 100 is not a multiple of its 3"),
    ],
)
def test_a_damaged_folder_is_one_sentence(folder: Path, what: str, said: str) -> None:
    damage(folder, what)
    with pytest.raises(UserError, match=said):
        load_backbone(folder)


# Names


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("miniatur", "Unknown backbone 'miniatur'. Did you mean 'miniature'"),
        ("vit-b/16", r"nor in the Hugging Face cache.*Ways to provide it:.*HF_HOME.*\.pt file.*'miniature'"),
        ("RN50", "'RN50' is a ResNet"),
        ("./no/such/folder", "no such file or folder"),
        ("ViT-B-16.pt", "no such file or folder"),
        (Path("ViT-B-16"), "no such file or folder"),
        ("", "no config.json"),
    ],
)
def test_names_that_lead_nowhere(name: str | Path, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_backbone(name)


def test_a_missing_path_names_its_nearest_neighbour(folder: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'clip'"):
        load_backbone(folder.parent / "clipp")


def test_names_of_openai_lead_to_the_hub(folder: Path, reference: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def snapshot(repository: str, allow_patterns: list[str]) -> str:
        asked.append(repository)
        assert "model.safetensors" in allow_patterns
        assert not any("bin" in pattern for pattern in allow_patterns)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    backbone = load_backbone("ViT-L/14@336px")
    assert same_weights(load_backbone("someone/some-clip"), reference)
    assert asked == ["openai/clip-vit-large-patch14-336", "someone/some-clip"]
    assert backbone.source == "ViT-L/14@336px"


# OpenAI's files


def openai_names(model: Any) -> dict[str, Tensor]:
    """The weights of a Hugging Face model under OpenAI's names and in its layout, written out."""
    theirs = model.state_dict()
    out: dict[str, Tensor] = {
        "visual.conv1.weight": theirs["vision_model.embeddings.patch_embedding.weight"],
        "visual.class_embedding": theirs["vision_model.embeddings.class_embedding"],
        "visual.positional_embedding": theirs["vision_model.embeddings.position_embedding.weight"],
        "visual.proj": theirs["visual_projection.weight"].T.contiguous(),
        "token_embedding.weight": theirs["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": theirs["text_model.embeddings.position_embedding.weight"],
        "text_projection": theirs["text_projection.weight"].T.contiguous(),
        "logit_scale": theirs["logit_scale"],
        "input_resolution": torch.tensor(32),
        "context_length": torch.tensor(20),
        "vocab_size": torch.tensor(len(small_tables()[0])),
    }
    for kind in ("weight", "bias"):
        out[f"visual.ln_pre.{kind}"] = theirs[f"vision_model.pre_layrnorm.{kind}"]
        out[f"visual.ln_post.{kind}"] = theirs[f"vision_model.post_layernorm.{kind}"]
        out[f"ln_final.{kind}"] = theirs[f"text_model.final_layer_norm.{kind}"]
        for ours, mine, depth in (("visual.transformer", "vision_model", 3), ("transformer", "text_model", 2)):
            for i in range(depth):
                block, layer = f"{ours}.resblocks.{i}.", f"{mine}.encoder.layers.{i}."
                qkv = [theirs[f"{layer}self_attn.{part}_proj.{kind}"] for part in "qkv"]
                out[f"{block}attn.in_proj_{kind}"] = torch.cat(qkv)
                out[f"{block}attn.out_proj.{kind}"] = theirs[f"{layer}self_attn.out_proj.{kind}"]
                out[f"{block}ln_1.{kind}"] = theirs[f"{layer}layer_norm1.{kind}"]
                out[f"{block}ln_2.{kind}"] = theirs[f"{layer}layer_norm2.{kind}"]
                out[f"{block}mlp.c_fc.{kind}"] = theirs[f"{layer}mlp.fc1.{kind}"]
                out[f"{block}mlp.c_proj.{kind}"] = theirs[f"{layer}mlp.fc2.{kind}"]
    return {name: tensor.detach().clone() for name, tensor in out.items()}


class Node(nn.Module):
    """A module that holds tensors under dotted names, to be traced into an archive like OpenAI's."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        children: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            head, _, rest = name.partition(".")
            if rest:
                children.setdefault(head, {})[rest] = tensor
            elif tensor.is_floating_point():
                self.register_parameter(head, nn.Parameter(tensor))
            else:
                self.register_buffer(head, tensor)
        for head, below in children.items():
            self.add_module(head, Node(below))

    def forward(self, x: Tensor) -> Tensor:
        return x + 1


def write_pt(path: Path, tensors: dict[str, Tensor], form: str) -> Path:
    if form == "TorchScript":
        torch.jit.save(torch.jit.trace(Node(tensors), torch.zeros(1)), path)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=form == "state dict")
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("form", ["TorchScript", "state dict", "state dict before 2020"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_openai_files(model: Any, folder: Path, reference: Backbone, form: str, dtype: torch.dtype) -> None:
    tensors = {k: v.to(dtype) if v.is_floating_point() else v for k, v in openai_names(model).items()}
    backbone = load_backbone(write_pt(folder / "ViT.pt", tensors, form))
    assert all(parameter.dtype == torch.float32 for parameter in backbone.parameters())
    expected = {name: tensor.to(dtype).float() for name, tensor in reference.state_dict().items()}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in backbone.state_dict().items())
    assert backbone.config == reference.config
    assert backbone.logit_scale == pytest.approx(50.0, rel=1e-3)


def test_a_state_dict_in_memory_is_copied(model: Any, folder: Path, reference: Backbone) -> None:
    tensors = openai_names(model)
    backbone = load_backbone(tensors, tokenizer_from=folder)
    for tensor in tensors.values():
        tensor.zero_()
    assert same_weights(backbone, reference)


def test_tokenizer_beside_or_named(model: Any, folder: Path, tmp_path: Path) -> None:
    alone = write_pt(tmp_path / "alone.pt", openai_names(model), "state dict")
    with pytest.raises(UserError, match=r"carry no tokenizer: put tokenizer.json.*tokenizer_from"):
        load_backbone(alone)
    assert load_backbone(alone, tokenizer_from=folder).tokenizer.count("a cat") == 4
    write_tokenizer(tmp_path, whole=False)
    assert load_backbone(alone).tokenizer.count("a cat") == 4


class Evil:
    """Pickles as a call of ``os.system``, or of whatever else."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["zip", "TorchScript", "plain pickle", "newer pickle"])
def test_a_malicious_file_is_refused_and_not_run(tmp_path: Path, form: str) -> None:
    import os

    path, proof = tmp_path / "evil.pt", tmp_path / "proof"
    evil = {"visual.conv1.weight": Evil(os.system, f"touch {proof}")}
    if form == "zip":
        torch.save(evil, path)
    elif form == "TorchScript":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("evil/code/__torch__.py", "import os")
            archive.writestr("evil/data.pkl", pickle.dumps(evil, protocol=2))
    else:
        path.write_bytes(pickle.dumps(evil, protocol=2 if form == "plain pickle" else 4))
    said = "not a saved state dict" if form == "newer pickle" else r"(posix|nt|os)\.system.*refused"
    with pytest.raises(UserError, match=said):
        load_backbone(path)
    assert not proof.exists()
    pickle.loads(pickle.dumps(evil))  # the pickle does bite where it is let
    assert proof.exists()


@pytest.mark.parametrize("function", [eval, getattr, torch.load, nn.Linear], ids=lambda f: f.__name__)
def test_functions_that_are_not_for_tensors_are_refused(tmp_path: Path, function: Any) -> None:
    torch.save({"x": Evil(function, "1", "2")}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match=rf"{function.__name__}'.*refused"):
        load_backbone(tmp_path / "evil.pt")


@pytest.mark.parametrize("what", ["half", "empty", "text", "short storage", "outside storage", "compressed", "cycle"])
def test_a_damaged_file_is_one_sentence(model: Any, tmp_path: Path, what: str) -> None:
    path = write_pt(tmp_path / "ViT.pt", openai_names(model), "state dict")
    content = path.read_bytes()
    said = "truncated, damaged or not a PyTorch checkpoint"
    if what in ("half", "empty", "text"):
        path.write_bytes({"half": content[: len(content) // 2], "empty": b"", "text": b"404: Not Found"}[what])
    elif what == "cycle":
        loop: dict[str, Any] = {}
        loop["again"] = loop
        torch.save(loop, path)
        said = "not an OpenAI CLIP"
    else:
        torch.save({"x": torch.zeros(10)}, path)
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
        data = next(name for name in members if name.endswith("data/0"))
        script = next(name for name in members if name.endswith("data.pkl"))
        if what == "short storage":
            members[data] = members[data][:20]
        elif what == "outside storage":  # size 10 -> 11, while the storage keeps 10 elements
            members[script] = members[script].replace(b"K\n\x85", b"K\x0b\x85")
            assert b"K\x0b\x85" in members[script]
        with zipfile.ZipFile(
            path, "w", zipfile.ZIP_DEFLATED if what == "compressed" else zipfile.ZIP_STORED
        ) as archive:
            for name, value in members.items():
                archive.writestr(name, value)
    with pytest.raises(UserError, match=said):
        load_backbone(path)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        ({"visual.layer1.0.conv1.weight": torch.zeros(1)}, "a ResNet"),
        ({"features.0.weight": torch.zeros(1)}, "not an OpenAI CLIP; 'visual.conv1.weight' is missing"),
        ({}, "not an OpenAI CLIP"),
    ],
)
def test_other_weights_are_refused(tensors: dict[str, Tensor], said: str, folder: Path) -> None:
    with pytest.raises(UserError, match=said):
        load_backbone(tensors, tokenizer_from=folder)


def test_a_file_of_another_kind_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="give the folder"):
        load_backbone(folder / "model.safetensors")


def test_random_backbones_repeat() -> None:
    assert same_weights(random_backbone(seed=3, text_depth=2), random_backbone(seed=3, text_depth=2))
    assert not same_weights(random_backbone(seed=3, text_depth=2), random_backbone(seed=4, text_depth=2))
