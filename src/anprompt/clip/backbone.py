"""The frozen dual encoder that methods build upon."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.clip.config import ClipConfig
from anprompt.clip.plan import PromptPlan
from anprompt.clip.towers import TextTower, VisionTower

if TYPE_CHECKING:
    from anprompt.clip.preprocess import ImageTransform
    from anprompt.clip.tokenizer import ClipTokenizer

NO_PROMPTS = PromptPlan()


@dataclass(frozen=True)
class ImageFeatures:
    """What one pass over a batch of images gives; fp32, not normalised unless said otherwise.

    cls: ``(B, C)``, the projected class token. prompts: ``(B, K, D)``, the outputs of the inserted prompt tokens after
    the final norm, not projected; ``None`` without insertion after CLS. frozen: ``(B, C)``, what the encoder gives
    without prompts, when asked for.
    """

    cls: Tensor
    prompts: Tensor | None = None
    frozen: Tensor | None = None


class Sentences:
    """A fixed list of tokenised sentences that prompts are run against again and again, e.g. one per class.

    Exact short cuts: the text is cut after the longest EOT (the mask is causal), and blocks below the first prompt run
    once and are kept, because nothing in them can learn.
    """

    def __init__(self, backbone: Backbone, texts: Sequence[str]) -> None:
        self._backbone = backbone
        ids = backbone.tokenizer(texts).to(backbone.device)  # (N, context)
        self.eot = (ids == backbone.config.eot_id).int().argmax(dim=1)  # (N,) first EOT of each
        self.ids = ids[:, : int(self.eot.max()) + 1]  # (N, L)
        self._trunk: tuple[int, Tensor] | None = None

    def __len__(self) -> int:
        return int(self.ids.shape[0])

    def _below(self, block: int) -> Tensor:
        """Input of ``block``, ``(N, L, D)``: the frozen blocks below it, run once."""
        if self._trunk is None or self._trunk[0] != block:
            tower = self._backbone.text
            with torch.no_grad():
                self._trunk = (block, tower.run(tower.embed(self.ids), 1, block - 1))
        return self._trunk[1]

    def features(self, plan: PromptPlan = NO_PROMPTS) -> Tensor:
        """Encode all sentences under ``plan``: ``(N, C)``, fp32, not normalised; gradients reach the plan."""
        tower = self._backbone.text
        first = plan.first_block or 1
        tokens = self._below(first) if first > 1 else tower.embed(self.ids)
        rows = plan.shifted(self.eot)[:, None]  # (N, 1)
        return tower.read(tower.run(tokens, first, tower.depth, plan, rows)[:, 0])


class Backbone(nn.Module):
    """A frozen CLIP: two towers, tokenizer and image transform. Nothing in it ever receives a gradient.

    source: what the user named (hub id, path or ``"miniature"``). logit_scale: factor on cosines, 100 for CLIP.
    """

    def __init__(
        self,
        config: ClipConfig,
        tokenizer: ClipTokenizer,
        transform: ImageTransform,
        *,
        source: str = "",
        logit_scale: float = 100.0,
    ) -> None:
        super().__init__()
        self.config = config
        self.vision = VisionTower(config)
        self.text = TextTower(config)
        self.tokenizer = tokenizer
        self.transform = transform
        self.source = source
        self.logit_scale = logit_scale
        self.precision = "fp32"
        self._fp32: dict[str, Tensor] = {}
        self.requires_grad_(False)
        self.eval()

    @property
    def device(self) -> torch.device:
        return self.vision.cls.device

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 over names, shapes and fp32 values of all weights: says which encoder an adapter belongs to.

        Computed in fp32, whatever precision the file has or the towers run in; call it before changing the precision.
        """
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def set_precision(self, precision: str) -> Backbone:
        """Run the frozen towers in ``"fp32"`` or ``"bf16"``. Features, norms at the end and losses stay fp32.

        The fp32 weights are kept aside meanwhile, so that going back gives exactly what was loaded.
        """
        _ = self.weights_hash  # of the weights as loaded
        if precision == "bf16" and self.precision == "fp32":
            self._fp32 = {name: tensor.cpu() for name, tensor in self.state_dict().items()}
            self.to(torch.bfloat16)
        elif precision == "fp32" and self.precision == "bf16":
            self.to(torch.float32).load_state_dict(self._fp32)
            self._fp32 = {}
        self.precision = precision
        return self

    def __sklearn_clone__(self) -> Backbone:
        """Estimators that are cloned share the frozen encoder instead of copying it."""
        return self

    def preprocess(self, images: Sequence[Any]) -> Tensor:
        """Turn PIL images, arrays ``(H, W[, 3|4])`` or paths into normalised pixels ``(B, 3, H, W)``, as CLIP does."""
        return self.transform(images).to(self.device)

    @torch.no_grad()
    def encode_image(self, pixels: Tensor) -> Tensor:
        """Frozen image features of normalised pixels ``(B, 3, H, W)``: ``(B, C)``, unit length."""
        return F.normalize(self.images(pixels).cls, dim=-1)

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str], batch: int = 256) -> Tensor:
        """Frozen text features: ``(N, C)``, unit length. Sentences of like length run together."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        out = torch.empty(len(texts), self.config.joint_width, device=self.device)
        for start in range(0, len(texts), batch):
            chosen = order[start : start + batch]
            out[chosen] = F.normalize(Sentences(self, [texts[i] for i in chosen]).features(), dim=-1)
        return out

    def images(self, pixels: Tensor, plan: PromptPlan = NO_PROMPTS, *, frozen: bool = False) -> ImageFeatures:
        """Encode normalised pixels ``(B, 3, H, W)`` under ``plan``, with gradients to the plan's tokens.

        frozen: also return the features without prompts. Both passes share the blocks below the first prompt (exact:
        same weights, same input).
        """
        tower = self.vision
        first = plan.first_block or 1
        with torch.no_grad():
            trunk = tower.run(tower.embed(pixels.to(self.device)), 1, first - 1)  # (B, 1 + M, D)
        b = trunk.shape[0]
        prompts = next((w for w in plan.writes if w.how == "insert" and w.at == 1), None)
        read = 1 + (prompts.length if prompts is not None else 0)  # CLS and the prompts right after it
        rows = torch.arange(read, device=trunk.device).expand(b, -1)  # (B, 1 + K)
        out = tower.run(trunk, first, tower.depth, plan, rows)  # (B, 1 + K, D)
        teacher = None
        if frozen:
            if plan.first_block is None:
                teacher = tower.read(out[:, 0])
            else:
                with torch.no_grad():
                    teacher = tower.read(tower.run(trunk, first, tower.depth, None, rows[:, :1])[:, 0])
        return ImageFeatures(
            cls=tower.read(out[:, 0]),
            prompts=tower.norm(out[:, 1:]) if prompts is not None else None,
            frozen=teacher,
        )
