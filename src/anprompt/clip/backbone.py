"""The frozen dual encoder that methods build upon."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.clip.config import ClipConfig
from anprompt.clip.image_pass import read_images, run_images, run_to_last
from anprompt.clip.plan import PromptPlan
from anprompt.clip.sentences import NO_PROMPTS, Sentences
from anprompt.clip.towers import Block, TextTower, VisionTower

if TYPE_CHECKING:
    from anprompt.clip.preprocess import ImageTransform
    from anprompt.clip.tokenizer import ClipTokenizer


class Cache(Protocol):
    """Keeps frozen activations of pictures that were seen before."""

    def fetch(self, pixels: Tensor, block: int, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """The input ``(B, 1 + M, D)`` of ``block``, kept or from ``compute(pixels)``.

        One more than the last block stands for the features ``(B, d)`` that the whole tower gives without prompts.
        """
        ...


@dataclass(frozen=True)
class ImageFeatures:
    """What one pass over a batch of images gives; fp32, not normalised unless said otherwise.

    cls: ``(B, d)``, the projected class token. prompts: ``(B, K, D)``, the outputs of the inserted prompt tokens after
    the final norm, not projected; ``None`` without insertion after CLS. frozen: ``(B, d)``, what the encoder gives
    without prompts, when asked for.
    """

    cls: Tensor
    prompts: Tensor | None = None
    frozen: Tensor | None = None


@dataclass(frozen=True)
class LocalFeatures:
    """Outputs of all tokens of an image; fp32, projected, not normalised.

    cls: ``(B, d)``. tokens: ``(B, L, d)``, CLS first, prompts where the plan puts them. attention, when asked for:
    ``(B, L)``, of CLS to all tokens in the last block, mean over heads; it sums to 1.
    """

    cls: Tensor
    tokens: Tensor
    attention: Tensor | None = None


class Backbone(nn.Module):
    """A frozen CLIP: two towers, tokenizer and image transform. Nothing in it ever receives a gradient.

    source: what the user named (hub id, path or ``"miniature"``). logit_scale: factor on cosines, 100 for CLIP.
    precision: of the towers' matrix products, see :meth:`in_precision`.

    Settings that change time and memory: ``class_chunk``, how many sentences run at a time when gradients are wanted
    (``None``: all; results agree up to rounding), and ``cache``, which keeps the frozen lower half of the vision tower
    (``None``: none; results are the same bits).
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
        self.class_chunk: int | None = None
        self.cache: Cache | None = None
        self._exact: Backbone | None = None  # the fp32 encoder that this one was rounded from
        self.requires_grad_(False)
        self.eval()

    @property
    def device(self) -> torch.device:
        return self.vision.cls.device

    @cached_property
    def weights_hash(self) -> str:
        """SHA-256 over names, shapes and fp32 values of all weights: says which encoder an adapter belongs to.

        Computed in fp32, whatever precision the file has or the towers run in.
        """
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    @property
    def computes(self) -> dict[str, Any]:
        """What decides what the encoder gives, beside the weights and what their shapes say; as a document."""
        config = self.config
        return {
            **{
                f"{name}.{key}": getattr(tower, key)
                for name, tower in (("vision", config.vision), ("text", config.text))
                for key in ("heads", "activation", "eps")
            },
            "text.sot_id": config.sot_id,
            "text.eot_id": config.eot_id,
            **{f"image.{k}": list(v) if isinstance(v, tuple) else v for k, v in asdict(self.transform).items()},
            "logit_scale": self.logit_scale,
        }

    def in_precision(self, precision: str, device: torch.device | None = None) -> Backbone:
        """The same encoder with the towers' matrix products in ``"fp32"`` or ``"bf16"``, on ``device`` or where it is.

        Sums along the blocks, layer norms, the final projections, learnables and losses are fp32 in both. An encoder
        never changes, since several methods may use it: where this one is not as asked for, the result is another,
        which shares all tensors that it can. Back in fp32, it has exactly the weights that were loaded.
        """
        device = self.device if device is None else torch.empty(0, device=device).device  # "cuda" becomes "cuda:0"
        exact = self if self._exact is None else self._exact
        for known in (self, exact):
            if (known.precision, known.device) == (precision, device):
                return known
        twins = _TWINS.setdefault(exact, WeakValueDictionary())
        twin = twins.get((precision, device))
        if twin is None or twin.device != device:  # somebody has moved it
            twin = twins[precision, device] = exact._twin(precision, device)
        return twin

    def _twin(self, precision: str, device: torch.device) -> Backbone:
        """A copy of this fp32 encoder; in bf16 it remembers this one, whose weights it cannot give back."""
        with torch.device("meta"):
            twin = Backbone(
                self.config, self.tokenizer, self.transform, source=self.source, logit_scale=self.logit_scale
            )
        lower = self._matrices() if precision == "bf16" else set()
        tensors = self.state_dict().items()
        twin.load_state_dict(
            {name: t.to(device, torch.bfloat16 if name in lower else t.dtype) for name, t in tensors}, assign=True
        )
        twin.requires_grad_(False)
        twin.precision = precision
        twin.__dict__.update(weights_hash=self.weights_hash, _exact=self if lower else None)  # no module of the twin's
        return twin

    def _matrices(self) -> set[str]:
        """Names of the weights that bf16 is for: of the blocks' linear maps and the patch embedding."""
        blocks = (block for block in self.modules() if isinstance(block, Block))
        chosen = {self.vision.patch, *(linear for block in blocks for linear in block.linears)}
        return {
            f"{name}.{key}"
            for name, module in self.named_modules()
            if module in chosen
            for key, _ in module.named_parameters()
        }

    def __sklearn_clone__(self) -> Backbone:
        """Estimators that are cloned share the frozen encoder instead of copying it."""
        return self

    def preprocess(self, images: Sequence[Any]) -> Tensor:
        """Turn PIL images, arrays ``(H, W[, 3|4])`` or paths into normalised pixels ``(B, 3, H, W)``, as CLIP does."""
        return self.transform(images).to(self.device)

    @torch.no_grad()
    def encode_image(self, pixels: Tensor) -> Tensor:
        """Frozen image features of normalised pixels ``(B, 3, H, W)``: ``(B, d)``, unit length."""
        return F.normalize(self.images(pixels).cls, dim=-1)

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str], batch: int = 256) -> Tensor:
        """Frozen text features: ``(N, d)``, unit length. Sentences of like length run together."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        out = torch.empty(len(texts), self.config.joint_width, device=self.device)
        for start in range(0, len(texts), batch):
            chosen = order[start : start + batch]
            out[chosen] = F.normalize(Sentences(self, [texts[i] for i in chosen]).features(), dim=-1)
        return out

    def trunk(self, pixels: Tensor, block: int) -> Tensor:
        """What comes into vision block ``block`` while nothing below it has learnt: ``(B, 1 + M, D)``, no gradient."""
        tower = self.vision
        return self._kept(pixels.to(self.device), block, lambda own: run_images(tower, tower.embed(own), 1, block - 1))

    @torch.no_grad()
    def _kept(self, pixels: Tensor, block: int, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """What the cache has for ``block`` (see :class:`Cache`), or ``compute(pixels)``."""
        return compute(pixels) if self.cache is None else self.cache.fetch(pixels, block, compute)

    def before_last(self, pixels: Tensor, plan: PromptPlan = NO_PROMPTS) -> Tensor:
        """What comes into the last vision block under ``plan``: ``(B, L, D)``, with gradients to the plan's tokens.

        Nothing is written for that block yet; rows that it overwrites as a whole are 0.
        """
        first = min(plan.first_block or self.vision.depth, self.vision.depth)
        return run_to_last(self.vision, self.trunk(pixels, first), first, plan)

    def images(
        self, pixels: Tensor, plan: PromptPlan = NO_PROMPTS, *, frozen: bool = False, prompts: bool = True
    ) -> ImageFeatures:
        """Encode normalised pixels ``(B, 3, H, W)`` under ``plan``, with gradients to the plan's tokens.

        frozen: also return the features without prompts. Both passes share the blocks below the first prompt (exact:
        same weights, same input).
        prompts: also return the outputs of prompts that stand right after CLS; without, nothing is spent on them.
        """
        tower, pixels = self.vision, pixels.to(self.device)

        def unprompted(block: int, tokens: Tensor) -> Tensor:
            return tower.read(read_images(tower, tokens, block, NO_PROMPTS, prompts=False)[:, 0])

        if plan.first_block is None:
            features = self._kept(pixels, tower.depth + 1, lambda own: unprompted(1, tower.embed(own)))
            return ImageFeatures(features, frozen=features if frozen else None)
        first = plan.first_block
        trunk = self.trunk(pixels, first)
        after_cls = bool(plan.writes) and plan.writes[0].how == "insert" and plan.writes[0].at == 1
        out = read_images(tower, trunk, first, plan, prompts=prompts and after_cls)  # (B, 1 [+ K], D)
        teacher = self._kept(pixels, tower.depth + 1, lambda _: unprompted(first, trunk)) if frozen else None
        return ImageFeatures(
            cls=tower.read(out[:, 0]),
            prompts=tower.norm(out[:, 1:]) if prompts and after_cls else None,
            frozen=teacher,
        )

    def local(
        self, pixels: Tensor, plan: PromptPlan = NO_PROMPTS, *, values: bool = False, attention: bool = False
    ) -> LocalFeatures:
        """Encode normalised pixels ``(B, 3, H, W)`` under ``plan`` and keep the outputs of all tokens.

        values: tokens are those of the last block's value path, in which each stays with what stands at its own place.
        attention: also return what CLS attends to in the last block.
        """
        tower, x = self.vision, self.before_last(pixels, plan)
        for write in plan.before(tower.depth):
            x = write.apply(x)
        number, inside = tower.depth, plan.inside(tower.depth)
        block = tower.block(number)
        rows = x.new_zeros(len(x), 1, dtype=torch.long) if values else None  # beside the value path CLS alone is read
        out = tower.read(tower.run(x, number, number, replace(plan, writes=()), rows))  # (B, L or 1, d)
        tokens = tower.read(plan.adapt(number, block.value_path(x, inside))) if values else out  # (B, L, d)
        attended = None
        if attention:
            allowed = None if plan.allowed is None else plan.allowed(x.shape[1]).to(x.device)
            attended = block.first_row_attention(x, inside, allowed)  # (B, L)
        return LocalFeatures(out[:, 0], tokens, attended)


# Of an fp32 encoder, the others that are in use, by precision and device. No attributes: encoders are pickled.
_TWINS: WeakKeyDictionary[Backbone, WeakValueDictionary[tuple[str, torch.device], Backbone]] = WeakKeyDictionary()
