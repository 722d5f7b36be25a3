"""Pretrains the packaged miniature CLIP on toy-world pictures and captions. For demos and tests only.

    python tools/pretrain_miniature.py --out DIR --minutes 50 --seed 0

Two CPU cores are enough (about 20 minutes when nothing else runs). The classes of the toy world are held out: the model
sees their parts in other compositions, and photos only. DIR becomes a Hugging Face CLIP directory with recipe.json. The
state for ``--resume`` is kept in DIR.work. ``--measure DIR`` measures a finished model again and rewrites its
recipe.json.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn

from anprompt.clip.backbone import Backbone
from anprompt.clip.config import ClipConfig, TowerConfig
from anprompt.clip.preprocess import ImageTransform
from anprompt.clip.tokenizer import EOT, SOT, ClipTokenizer, clip_bpe
from anprompt.data import toyworld, toyworld_words
from anprompt.data.toyworld_draw import draw, generator
from miniature_files import accuracy, remeasure, save_directory, write

VOCABULARY, CONTEXT = 1024, 77
PICTURES = 72  # drawn per pretraining composition
BATCH = 256
PEAK_RATE, WARM_UP, DECAY = 1e-3, 100, 0.05
EVERYDAY = """
the of and to in is you that it he was for on are as with his they at be this have from or one had by word but not what
all were we when your can said there use an each which she do how their if will up other about out many then them these
so some her would make like him into time has look two more write go see number no way could people my than first water
been call who oil its now find long down day did get come made may part cat dog bird fish horse cow sheep animal tree
leaf grass sky sun moon cloud rain snow river sea mountain field forest house street city car train boat plane bridge
door window table chair bed book paper picture photo photograph image drawing painting art food bread fruit apple cake
man woman child boy girl baby hand head face eye body small large big little old new young good bad black brown grey
dark light bright colour color shape pattern texture surface metal wood glass stone plastic scene view close blurry
noisy sketch night day satellite aerial land industrial residential highway crop pasture centered type kind rendering
"""


def build_tokenizer() -> Tokenizer:
    """A byte-level BPE in CLIP's format; the last two of its ``VOCABULARY`` ids are SOT and EOT."""
    rng = random.Random(0)
    texts = EVERYDAY.split("\n") * 2 + toyworld_words.all_words() * 8
    texts += [toyworld_words.random_caption(kind, rng)[0] for kind in toyworld.pretraining_kinds() for _ in range(2)]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    characters = letters + [f"{c}</w>" for c in letters]
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    template = clip_bpe({SOT: 0, EOT: 1}, [])
    learner.normalizer, learner.pre_tokenizer = template.normalizer, template.pre_tokenizer
    # Naming the characters fixes their order: ties between merges would fall differently from run to run.
    trainer = trainers.BpeTrainer(
        vocab_size=2 * VOCABULARY,
        end_of_word_suffix="</w>",
        special_tokens=characters,
        show_progress=False,
        min_frequency=1,
    )
    learner.train_from_iterator(texts, trainer)
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    tokens = list(characters)
    kept = []
    for left, right in merges:
        if len(tokens) == VOCABULARY - 2:
            break
        if left + right not in tokens:
            tokens.append(left + right)
        kept.append((left, right))
    if len(tokens) < VOCABULARY - 2:
        raise ValueError(f"only {len(tokens)} tokens: more text is needed for {VOCABULARY}")
    vocabulary = {token: i for i, token in enumerate([*tokens, SOT, EOT])}
    tokenizer = clip_bpe(vocabulary, kept)
    tokenizer.post_processor = processors.RobertaProcessing(
        (EOT, vocabulary[EOT]), (SOT, vocabulary[SOT]), trim_offsets=False, add_prefix_space=False
    )
    return tokenizer


def configuration() -> ClipConfig:
    tower = TowerConfig(width=96, depth=12, heads=3, mlp=384, activation="quick_gelu")
    return ClipConfig(
        vision=tower, text=tower, joint_width=64, image_size=toyworld.SIZE, patch_size=8,
        vocabulary=VOCABULARY, context=CONTEXT, eot_id=VOCABULARY - 1, sot_id=VOCABULARY - 2,
    )  # fmt: skip


def new_model(tokenizer: Tokenizer) -> Backbone:
    """Both towers with CLIP's own initialisation, set to learn."""
    config = configuration()
    wrapped = ClipTokenizer(tokenizer, sot_id=config.sot_id, eot_id=config.eot_id, context=config.context)
    model = Backbone(config, wrapped, ImageTransform(config.image_size, config.image_size))
    for tower in (model.vision, model.text):
        d = tower.width
        for name, parameter in tower.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif "ln_" in name:
                nn.init.ones_(parameter)
            else:
                std = 0.02 if name.startswith("token") else 0.01 if name == "position" else d**-0.5
                if ".out." in name or ".proj." in name:
                    std *= (2 * tower.depth) ** -0.5  # the residual stream keeps its size
                elif ".fc." in name:
                    std = (2 * d) ** -0.5
                nn.init.normal_(parameter, std=std)
    model.requires_grad_(True).train()
    return model


def _draw_kind(job: tuple[toyworld.Kind, int, int]) -> NDArray[np.uint8]:
    kind, count, seed = job
    return np.stack([np.asarray(draw(kind, "photo", generator("pretraining", seed, *kind, i))) for i in range(count)])


def draw_pictures(seed: int, cache: Path) -> NDArray[np.uint8]:
    """``(kinds, PICTURES, H, W, 3)``, drawn once with two processes and kept in ``cache``."""
    if cache.is_file():
        return np.asarray(np.load(cache))
    jobs = [(kind, PICTURES, seed) for kind in toyworld.pretraining_kinds()]
    with ProcessPoolExecutor(2) as pool:
        pictures = np.stack(list(pool.map(_draw_kind, jobs, chunksize=8)))
    np.save(cache, pictures)
    return pictures


def augment(pixels: Tensor, g: torch.Generator) -> Tensor:
    """Random box of 60–100 % of the area, mirror, mild brightness, contrast, channel gain and noise; 0..1 kept."""
    n = pixels.shape[0]

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=g)

    area, aspect = uniform(0.6, 1.0), torch.exp(uniform(-0.2, 0.2))
    w, h = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = w * torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    theta[:, 1, 1] = h
    theta[:, 0, 2], theta[:, 1, 2] = (1 - w) * uniform(-1, 1), (1 - h) * uniform(-1, 1)
    grid = F.affine_grid(theta, [n, 3, pixels.shape[2], pixels.shape[3]], align_corners=False)
    x = F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
    mean = x.mean((1, 2, 3), keepdim=True)
    x = (x - mean) * uniform(0.5, 1.2, 1, 1, 1) + mean * uniform(0.5, 1.2, 1, 1, 1)
    x = x * uniform(0.9, 1.1, 3, 1, 1)
    return (x + uniform(0, 0.06, 1, 1, 1) * torch.randn(x.shape, generator=g)).clamp(0, 1)


class Batches:
    """Endless batches of distinct compositions: pixels, token ids and which pairs match by chance."""

    def __init__(self, pictures: NDArray[np.uint8], model: Backbone, seed: int) -> None:
        self.pictures, self.model = pictures, model
        self.kinds = toyworld.pretraining_kinds()
        self.g = torch.Generator().manual_seed(seed)
        self.rng = random.Random(seed)
        tables = (toyworld_words.PATTERNS, toyworld_words.COLOURS, toyworld_words.SHAPES)
        concepts = [list(table) for table in tables]
        self.attributes = torch.tensor([[c.index(v) for c, v in zip(concepts, k, strict=True)] for k in self.kinds])

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        while True:
            chosen = torch.randperm(len(self.kinds), generator=self.g)[:BATCH]
            which = torch.randint(self.pictures.shape[1], (len(chosen),), generator=self.g)
            raw = torch.from_numpy(self.pictures[chosen.numpy(), which.numpy()]).permute(0, 3, 1, 2).float() / 255
            captions = [toyworld_words.random_caption(self.kinds[i], self.rng) for i in chosen.tolist()]
            ids = self.model.tokenizer([text for text, _ in captions])
            said = torch.tensor([[letter in mentioned for letter in "pcs"] for _, mentioned in captions])
            own = self.attributes[chosen]
            same = own[:, None] == own[None]  # (B captions, B pictures, 3)
            match = (same | ~said[:, None]).all(-1)  # (B, B) the caption is true of the picture
            yield self.model.transform.normalise(augment(raw, self.g)), ids, match


def contrastive_loss(image: Tensor, text: Tensor, match: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE; pairs that are true without being the batch's own pairs are left out of the denominators."""
    logits = scale * F.normalize(text, dim=-1) @ F.normalize(image, dim=-1).T  # (B captions, B pictures)
    accidental = match & ~torch.eye(len(match), dtype=torch.bool)
    logits = logits.masked_fill(accidental, float("-inf"))
    target = torch.arange(len(match))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def encode(model: Backbone, pixels: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Features of both towers with gradients; text ends at the batch's longest EOT."""
    eot = (ids == model.config.eot_id).int().argmax(1)
    ids = ids[:, : int(eot.max()) + 1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cls = torch.zeros(len(pixels), 1, dtype=torch.long)
        x = model.vision.run(model.vision.embed(pixels), 1, model.vision.depth, None, cls)
        t = model.text.run(model.text.embed(ids), 1, model.text.depth, None, eot[:, None])
    return model.vision.read(x[:, 0].float()), model.text.read(t[:, 0].float())


_attention = F.scaled_dot_product_attention


def _attention_fp32(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    """Attention in fp32: its bf16 gradient on the CPU takes seven times as long as the fp32 one."""
    with torch.autocast("cpu", enabled=False):
        return _attention(q.float(), k.float(), v.float(), **options)


def train(out: Path, minutes: float, seed: int, steps: int, resume: bool) -> None:
    """Pretrain for ``steps`` and write the directory. The rate follows a cosine over the steps.

    On a machine that could not do them in ``minutes`` the schedule follows the time instead and ends earlier.
    """
    work = out.with_name(out.name + ".work")
    work.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    model = new_model(tokenizer)
    F.scaled_dot_product_attention = _attention_fp32  # type: ignore[assignment]
    pictures = draw_pictures(seed, work / f"pictures-{seed}.npy")
    print(f"pictures {pictures.shape} after {time.monotonic() - started:.0f} s", flush=True)
    batches = Batches(pictures, model, seed)
    log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    plain = [p for p in model.parameters() if p.dim() < 2]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": DECAY}, {"params": [*plain, log_scale], "weight_decay": 0.0}],
        lr=PEAK_RATE, betas=(0.9, 0.98), eps=1e-6,
    )  # fmt: skip
    step, before = 0, 0.0
    state = work / "state.pt"
    if resume and state.is_file():
        kept = torch.load(state, weights_only=True)
        model.load_state_dict(kept["model"])
        optimiser.load_state_dict(kept["optimiser"])
        log_scale.data.copy_(kept["log_scale"])
        step, before = kept["step"], kept["seconds"]
        batches.g.manual_seed(seed + step)
        batches.rng.seed(seed + step)
    learning = time.monotonic()
    budget = 60 * minutes - 60 - (learning - started)  # a minute is for the last measurement
    last_log = last_test = time.monotonic()
    running: list[float] = []
    for pixels, ids, match in batches:
        seconds = before + time.monotonic() - learning
        progress = max(step / steps, seconds / budget)
        if progress >= 1:
            break
        rate = PEAK_RATE * min(1.0, (step + 1) / WARM_UP) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimiser.param_groups:
            group["lr"] = rate
        # The scale is learnt between a floor that rises to CLIP's final 100 and that maximum.
        floor = math.log(1 / 0.07) + min(1.0, progress / 0.8) * (math.log(100) - math.log(1 / 0.07))
        log_scale.data.clamp_(floor, math.log(100))
        image, text = encode(model, pixels, ids)
        loss = contrastive_loss(image, text, match, log_scale.exp())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
        running.append(loss.item())
        now = time.monotonic()
        if now - last_log > 20:
            print(f"step {step} {seconds:.0f} s loss {np.mean(running):.3f}", flush=True)
            last_log, running = now, []
        if now - last_test > 180:
            model.eval()
            found = {d: accuracy(model, d, "shapes", 4)["all"] for d in toyworld.DOMAINS}
            found["signs"] = accuracy(model, "photo", "signs", 4)["all"]
            model.train()
            line = {"step": step, "seconds": round(seconds), "loss": loss.item(), "held_out": found}
            with open(work / "log.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            print(line, flush=True)
            temporary = state.with_suffix(".part")
            torch.save(
                {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "log_scale": log_scale.data,
                 "step": step, "seconds": seconds}, temporary,
            )  # fmt: skip
            os.replace(temporary, state)
            last_test = time.monotonic()
    F.scaled_dot_product_attention = _attention
    model.eval()
    scale = log_scale.exp().item()
    digest = save_directory(out, model, tokenizer, round(scale, 4))
    recipe = {
        "command": f"python tools/pretrain_miniature.py --out DIR --minutes {minutes:g} --steps {steps} --seed {seed}",
        "purpose": "demos and tests only",
        "seed": seed,
        "steps": step,
        "batch": BATCH,
        "pictures": int(pictures.shape[0] * pictures.shape[1]),
        "seconds": round(before + time.monotonic() - started),
        "seconds_note": "wall clock; pictures kept from an earlier run are not counted (70 s)",
        "machine": f"{torch.get_num_threads()} CPU cores, no GPU",
        "torch": torch.__version__.split("+")[0],
        "precision": "bf16 matrix products, fp32 attention, weights and optimiser; saved in fp16",
        "logit_scale": round(scale, 4),
        "parameters": sum(p.numel() for p in model.parameters()),
        "model_sha256": digest,
        "zero_shot": {},
    }
    write(out / "recipe.json", (json.dumps(recipe, indent=2) + "\n").encode())
    remeasure(out)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder to write")
    parser.add_argument("--minutes", type=float, default=50, help="at most, drawing and measuring included")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--resume", action="store_true", help="go on from DIR.work, with other batches than without a stop"
    )
    parser.add_argument("--measure", type=Path, metavar="DIR", help="only measure a finished directory again")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.measure is not None:
        remeasure(options.measure)
    elif options.out is None:
        parser.error("--out is needed")
    else:
        train(options.out, options.minutes, options.seed, options.steps, options.resume)


if __name__ == "__main__":
    main()
