"""ANPrompt: robust prompt tuning with mild semantic noise.

Gao, Zheng, Wang: Robust Prompt Tuning for Vision-Language Models with Mild Semantic Noise (ANPrompt).
https://arxiv.org/abs/2508.04677

    f_w = f_m + α f_n                                     weak noise frozen text feature               (2)
    ℓ_A = f_v f_tᵀ,  ℓ_R = f_v f_wᵀ                       alignment and robustness logits
    L = L_CE(ℓ_A, y) + λ L_sim + γ L_WA                                                                (3)
        L_sim = (1 − mean cos(f_v, f_v^clip)) + (1 − mean cos(f_t, f_t^clip))
    f_N = 1/N Σ_i f_v^{o(i)}                              noise-resistant visual prompt prototype      (4)
    ℓ_W = f_N f_wᵀ                                        weak noise logits                            (5)
    L_WA = KL(softmax ℓ_A ‖ softmax ℓ_W)                  weak alignment                               (6)
    γ = 1 / (std(ℓ_R) |ℓ_R| + ε0)                         its weight, |ℓ_R|: B·C entries               (7)
    P_a = P_c + ε P_w                                     anti-noise prompts, P_w: K-means of f_w      (8)
    {e_cls, P_a^img, e_1 … e_M},  {t_SOS, P_a^txt, t_1 … t_L, c_k, t_EOS}                              (9)
    ℓ_final = θ ℓ_A + (1 − θ) ℓ_R                         decides

f_v, f_t: features of the prompted image (CLS) and text (EOT); ^clip: without prompts. f_m, f_n: frozen features of a
main and a noise sentence. f_v^o: outputs of the N = K visual prompts. The paper prints P_a^img before e_cls in (9); it
comes to the same, because prompts have no position embedding and the vision tower has no mask.
Shapes: B images, C classes, K prompts, d joint width, D tower width. All features have unit length, logits are × 100.
Where the paper is silent or contradicts itself, an option names the choice and its default is the paper's reading.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anprompt.clip import Backbone
from anprompt.clip.plan import PromptPlan
from anprompt.errors import UserError
from anprompt.methods.base import ClassBlock, Method, Preset
from anprompt.methods.ensemble import mean_features
from anprompt.methods.maps import LinearMaps, LowRankMaps, LowRankProjection, parse_layers
from anprompt.methods.options import option
from anprompt.methods.small_form import SmallForm
from anprompt.text import ClassTexts, DescriptionBank
from anprompt.text.noise import add_noise

Tokens = dict[int, Tensor]  # block number -> (K, D)


@dataclass
class ANPromptOptions:
    """Every switch that the paper ablates, and every reading of it that differs."""

    prompt_length: int = option(5, "number of prompt tokens K (Table V)", low=1, high=64)
    layers: str = option("last-7", "blocks with prompts, 1-based: 'A-B' or 'last-N' of each tower (Table XI)")
    alpha: float = option(0.001, "weight α of the noise feature in Eq. 2 (Table VI)", low=0)
    epsilon: float = option(0.01, "weight ε of the noise prompts in Eq. 8", low=0)
    theta: float = option(0.7, "weight θ of the alignment logits in the decision (Table VIII)", low=0, high=1)
    sim_weight: float = option(1.0, "weight λ of the similarity loss in Eq. 3", low=0)
    text_noise: bool = option(True, "component (Table IV): noise in f_w; off means f_w = f_m")
    wa_loss: bool = option(True, "component (Table IV): weak alignment loss, Eq. 6")
    anti_prompt: bool = option(True, "component (Table IV): noise prompts in Eq. 8; off means P_a = P_c")
    distance: Literal["kl", "l1", "mse", "cosine"] = option("kl", "distance of the weak alignment loss (Table VII)")
    kl_direction: Literal["forward", "reverse"] = option("forward", "KL(A‖W) as in Eq. 6, or KL(W‖A)")
    gamma: Literal["std", "log", "mean", "entropy"] = option("std", "weight γ: Eq. 7, 10, 11 or 12 (Table IX)")
    gamma_logits: Literal["robustness", "alignment"] = option("robustness", "logits behind γ: ℓ_R or ℓ_A")
    gamma_epsilon: float = option(1e-6, "ε0 in Eq. 7, ε in Eq. 11", low=0)
    detach_gamma: bool = option(True, "no gradient through γ")
    noise_source: Literal["bank", "main", "drop", "mask", "shuffle", "synonym"] = option(
        "bank", "noise text: a noise sentence, another main one (aggregate=sample), or the main one damaged (Table X)"
    )
    draw: Literal["per-class", "shared"] = option("per-class", "own sentence index for each class, or one for all")
    aggregate: Literal["sample", "mean"] = option("sample", "f_m, f_n from one drawn sentence, or the mean over all")
    resample: Literal["run", "epoch"] = option("run", "when sentences are drawn; P_w always stays fixed")
    maps: Literal["per-layer", "shared", "low-rank"] = option(
        "per-layer", "vision maps: one per layer, one for all layers (then text too), or shared plus rank 4 per layer"
    )
    free_prompts: float = option(0.0, "weight of a second, free prompt set in the vision tower (snapshot: 0.2)", low=0)
    mix: float = option(1.0, "weight β of new vision tokens against the old state (1 = overwrite)", low=0, high=1)
    projection: Literal["clip", "random", "low-rank"] = option("clip", "start of the prototype projection")
    partner: Literal["robustness", "prototype"] = option("robustness", "logits beside ℓ_A: ℓ_R, or ℓ_rep = f_N f_tᵀ")
    theta_in_loss: bool = option(False, "θ CE(ℓ_A) + (1−θ) CE(partner) instead of CE(ℓ_A)")
    decision: Literal["final", "alignment"] = option("final", "logits that decide for training classes: ℓ_final or ℓ_A")
    decision_new: Literal["final", "alignment"] = option("final", "logits that decide for other classes")
    recompute_noise: bool = option(False, "compute P_w anew for other classes instead of keeping it from training")


def weak_alignment(l_a: Tensor, l_w: Tensor, distance: str, direction: str) -> Tensor:
    """L_WA of logits ``(B, C)``: Eq. (6) for ``kl``; the other distances are those of Table VII.

    A sum, not a mean over the batch: γ already divides by the number of entries.
    """
    if distance == "l1":
        return (l_a - l_w).abs().sum()
    if distance == "mse":
        return (l_a - l_w).square().sum()
    if distance == "cosine":
        return (1 - F.cosine_similarity(l_a, l_w, dim=1)).sum()
    log_a, log_w = l_a.log_softmax(dim=1), l_w.log_softmax(dim=1)
    if direction == "reverse":
        log_a, log_w = log_w, log_a
    return (log_a.exp() * (log_a - log_w)).sum()  # (6)


def adaptive_weight(logits: Tensor, formula: str, epsilon: float) -> Tensor:
    """γ from logits ``(B, C)``: Eq. (7) ``std``, (10) ``log``, (11) ``mean``, (12) ``entropy``."""
    if formula == "entropy":
        log_p = logits.log_softmax(dim=1)
        entropy = -(log_p.exp() * log_p).sum(dim=1).mean()  # (13)
        return 1 / (entropy * logits.numel())  # (12)
    std = logits.std()  # over all B·C entries, unbiased
    if formula == "log":
        return 1 / (torch.log(std + 1.1) * logits.numel())  # (10)
    if formula == "mean":
        return 1 / (std / (logits.mean() + epsilon) * logits.numel())  # (11)
    return 1 / (std * logits.numel() + epsilon)  # (7)


class ANPrompt(LowRankProjection, SmallForm):
    """Anti-noise prompts in both towers, the visual prompt prototype, and weak alignment of the logits."""

    name = "anprompt"
    paper = "Robust Prompt Tuning for Vision-Language Models with Mild Semantic Noise"
    link = "https://arxiv.org/abs/2508.04677"
    year = 2025
    needs = ("descriptions",)
    Options = ANPromptOptions
    presets = {  # noqa: RUF012 - ClassVar in the base
        "paper": Preset("the equations of the paper", {}, {"optimizer": "adam"}),
        "snapshot": Preset(
            "the authors' code in an early version, base-to-new: no K-means, prototype logits in loss and decision",
            {
                "anti_prompt": False, "draw": "shared", "maps": "low-rank", "free_prompts": 0.2, "mix": 0.5,
                "projection": "low-rank", "partner": "prototype", "theta_in_loss": True, "kl_direction": "reverse",
                "gamma_logits": "alignment", "detach_gamma": False, "decision_new": "alignment",
            },
            {"optimizer": "adamw", "weight_decay": 5e-4},
        ),
    }  # fmt: skip

    def __init__(self, backbone: Backbone, options: ANPromptOptions, **common: Any) -> None:
        super().__init__(backbone, options, **common)
        self.options: ANPromptOptions
        if (options.noise_source, options.aggregate) == ("main", "mean"):
            raise UserError("noise_source='main' takes a main sentence other than the drawn one, but with "
                            "aggregate='mean' all are taken: use one of the two.")  # fmt: skip
        o, config = options, backbone.config
        self.vision_layers = parse_layers(o.layers, config.vision.depth)
        self.text_layers = parse_layers(o.layers, config.text.depth)
        d, d_vision, d_text = config.joint_width, config.vision.width, config.text.width
        self.prompts = nn.Parameter(0.02 * torch.randn(o.prompt_length, d))  # P_c (K, d)
        self.register_buffer("noise_prompts", torch.zeros(o.prompt_length, d))  # P_w (K, d)
        self.noise_prompts: Tensor
        n = 1 if o.maps == "shared" else len(self.vision_layers)
        self.to_text = LinearMaps(n, d, d_text)
        low_rank = o.maps == "low-rank"
        self.to_vision: nn.Module = LowRankMaps(n, d, d_vision, rank=4) if low_rank else LinearMaps(n, d, d_vision)
        if o.free_prompts:
            self.free = nn.Parameter(0.02 * torch.randn(o.prompt_length, d))
            self.free_to_vision = LinearMaps(n, d, d_vision)
        clip_projection = backbone.vision.projection.weight.detach().float()  # (d, D)
        if o.projection == "low-rank":
            self.start_low_rank(clip_projection, rank=64)
        else:
            random_projection = torch.randn(clip_projection.shape) * d_vision**-0.5  # the same on every device
            self.projection = nn.Parameter(
                clip_projection.clone() if o.projection == "clip" else random_projection
            )  # P_r (d, D)
        if o.resample == "epoch":
            self.register_buffer("drawn_epoch", torch.tensor(0))
        self.drawn_epoch: Tensor
        self.baked_vision: Tensor
        self.baked_text: Tensor

    # ---- before training: weak noise frozen text features ----------------------------------------------------------

    def _draw(self, name: str) -> ClassTexts:
        """The drawn main and noise sentence of a class; all of them if ``aggregate`` is ``"mean"``."""
        o = self.options
        texts = self.bank.of(name, self.template)
        epoch = int(self.drawn_epoch) if "drawn_epoch" in self._buffers else 0
        rng = random.Random(f"{self.seed}/{epoch}/{name if o.draw == 'per-class' else ''}")
        i, j = rng.random(), rng.random()  # main first, then noise: adapters are rebuilt by repeating these draws
        main = texts.main if o.aggregate == "mean" else (texts.main[int(i * len(texts.main))],)
        if o.noise_source == "bank":
            noise = texts.noise
        elif o.noise_source == "main":
            noise = tuple(s for s in texts.main if s not in main) or texts.noise
        else:
            noise = tuple(add_noise(s, name, o.noise_source, rng) for s in main)
        if o.aggregate == "sample":
            noise = (noise[int(j * len(noise))],)
        return ClassTexts(name, main, noise, texts.described)

    def _weak_noise_features(self, names: Sequence[str]) -> Tensor:
        """``f_w`` ``(C, d)``, as Eq. (2) gives it, not normalised."""
        drawn = [self._draw(name) for name in names]
        f_m = mean_features(self.backbone, [t.main for t in drawn])  # (C, d)
        if not self.options.text_noise:
            return f_m
        return f_m + self.options.alpha * mean_features(self.backbone, [t.noise for t in drawn])  # (2)

    def _noise_centres(self, names: Sequence[str], f_w: Tensor) -> Tensor:
        """``P_w`` ``(K, d)``: K-means centres of the rows of ``f_w``; with fewer classes than K, of all sentences."""
        from sklearn.cluster import KMeans
        from sklearn.exceptions import ConvergenceWarning

        o, k, rows = self.options, self.options.prompt_length, f_w
        if len(names) < k:
            texts = [self.bank.of(name, self.template) for name in names]
            pairs = [(t.main[i % len(t.main)], s) for t in texts for i, s in enumerate(t.noise) if o.text_noise]
            pairs += [(s, t.noise[i % len(t.noise)]) for t in texts for i, s in enumerate(t.main)]
            pairs = list(dict.fromkeys(pairs))  # the first ones of a class come up twice
            if len(pairs) < k:
                pairs = [pair for t in texts for pair in product(t.main, t.noise if o.text_noise else t.noise[:1])]
            f_m, f_n = (self.backbone.encode_text([p[side] for p in pairs]) for side in (0, 1))
            rows = f_m + o.alpha * o.text_noise * f_n  # (2), for every description
        if len(rows) < k:
            raise UserError(
                f"{k} noise prompts need at least {k} classes or sentences, but there are {len(rows)}: "
                "lower the option 'prompt_length' or add texts."
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # equal rows: some centres coincide, which is harmless
            centres = KMeans(k, n_init=10, random_state=0).fit(rows.cpu().double().numpy()).cluster_centers_
        return torch.as_tensor(centres, dtype=torch.float32, device=f_w.device)

    def build_block(self, names: Sequence[str], *, trained: bool) -> ClassBlock:
        return self._add_weak_noise(super().build_block(names, trained=trained))

    def _add_weak_noise(self, block: ClassBlock) -> ClassBlock:
        """Keep ``f_w`` for the logits, and un-normalised, as Eq. (2) gives it, for ``P_w``; ``(C, d)`` each."""
        block.extra["weak_noise"] = self._weak_noise_features(block.names)
        block.extra["f_w"] = F.normalize(block.extra["weak_noise"], dim=-1)
        return block

    def start(self, names: Sequence[str], bank: DescriptionBank) -> None:
        super().start(names, bank)
        if self.options.anti_prompt:
            self.noise_prompts.copy_(self._noise_centres(names, self.blocks[0].extra["weak_noise"]))

    def start_epoch(self, epoch: int) -> None:
        if self.options.resample == "epoch":
            self.drawn_epoch.fill_(epoch)
            for block in self.blocks:
                self._add_weak_noise(block).kept = None

    def with_classes(
        self, names: Sequence[str], bank: DescriptionBank | None = None, *, foreign: bool = False
    ) -> Method:
        view = super().with_classes(names, bank, foreign=foreign)
        recompute = self.options.recompute_noise and self.options.anti_prompt and self.baked is None
        if recompute and not all(block.trained for block in view.blocks):
            assert isinstance(view, ANPrompt)
            view._buffers = dict(self._buffers)  # the view shares these otherwise, and this object keeps its own P_w
            weak_noise = torch.cat([block.extra["weak_noise"] for block in view.blocks])  # (C, d)
            view.noise_prompts = view._noise_centres(names, weak_noise)
        return view

    def used_texts(self, names: Sequence[str]) -> DescriptionBank:
        # What is drawn or clustered anew after loading needs all sentences; otherwise those that were drawn are enough.
        whole = self.options.noise_source != "bank" or self.options.recompute_noise
        described = [name for name in names if name in self.bank.main]
        texts = {name: self.bank.of(name, self.template) if whole else self._draw(name) for name in described}
        main, noise = {name: own.main for name, own in texts.items()}, {name: own.noise for name, own in texts.items()}
        return DescriptionBank(main, noise, self.bank.source)

    # ---- prompts and features --------------------------------------------------------------------------------------

    def tokens(self) -> tuple[Tokens, Tokens]:
        """Anti-noise prompts of the vision tower and of the text tower, block number -> ``(K, D)`` (Eq. 9)."""
        if self.baked is not None:
            pairs = ((self.vision_layers, self.baked_vision), (self.text_layers, self.baked_text))
            vision, text = ({layer: rows[i].float() for i, layer in enumerate(layers)} for layers, rows in pairs)
            return vision, text
        p_a: Tensor = self.prompts  # (K, d)
        if self.options.anti_prompt:
            p_a = p_a + self.options.epsilon * self.noise_prompts  # (8)
        text = {layer: self.to_text(p_a, i) for i, layer in enumerate(self.text_layers)}
        vision = {layer: self.to_vision(p_a, i) for i, layer in enumerate(self.vision_layers)}
        if self.options.free_prompts:
            for i, layer in enumerate(self.vision_layers):
                vision[layer] = vision[layer] + self.options.free_prompts * self.free_to_vision(self.free, i)
        return vision, text

    def _prototype(self, outputs: Tensor) -> Tensor:
        """NRVPP ``f_N`` ``(B, d)``, unit length, from prompt outputs ``(B, K, D)``: Eq. (4), then P_r."""
        mean = outputs.mean(dim=1)  # (4)
        low_rank = self.options.projection == "low-rank"
        projected = self.project_low_rank(mean) if low_rank else F.linear(mean, self.projection)
        return F.normalize(projected, dim=-1)

    def _text_features(self, block: ClassBlock, text: Tokens) -> Tensor:
        """``f_t`` ``(C, d)``, unit length."""
        assert block.sentences is not None
        return F.normalize(block.sentences.features(PromptPlan.deep(text)), dim=-1)

    # ---- training --------------------------------------------------------------------------------------------------

    def losses(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Eq. (3) and its terms, unweighted: ``cross_entropy``, ``similarity``, ``weak_alignment``; and ``gamma``."""
        o, block, labels, scale = self.options, self.blocks[0], batch["labels"], self.backbone.logit_scale
        vision, text = self.tokens()
        image = self.backbone.images(batch["pixels"], PromptPlan.deep(vision, mix=o.mix), frozen=True)
        assert image.prompts is not None
        assert image.frozen is not None
        f_v, f_n = F.normalize(image.cls, dim=-1), self._prototype(image.prompts)  # (B, d) each
        f_t, f_w = self._text_features(block, text), block.extra["f_w"]  # (C, d) each

        l_a = scale * f_v @ f_t.T  # alignment logits (B, C)
        l_r = scale * f_v @ f_w.T  # robustness logits
        l_w = scale * f_n @ f_w.T  # weak noise logits, (5)

        cross_entropy = F.cross_entropy(l_a, labels)
        if o.theta_in_loss:
            partner = l_r if o.partner == "robustness" else scale * f_n @ f_t.T
            cross_entropy = o.theta * cross_entropy + (1 - o.theta) * F.cross_entropy(partner, labels)
        image_similarity = (f_v * F.normalize(image.frozen, dim=-1)).sum(dim=1).mean()
        similarity = (1 - image_similarity) + (1 - (f_t * block.frozen).sum(dim=1).mean())
        gamma = adaptive_weight(l_r if o.gamma_logits == "robustness" else l_a, o.gamma, o.gamma_epsilon)  # (7)
        gamma = gamma.detach() if o.detach_gamma else gamma
        alignment = weak_alignment(l_a, l_w, o.distance, o.kl_direction)  # (6)

        total = cross_entropy + o.sim_weight * similarity  # (3)
        if o.wa_loss:
            total = total + gamma * alignment
        return {"total": total, "cross_entropy": cross_entropy, "similarity": similarity,
                "weak_alignment": alignment, "gamma": gamma}  # fmt: skip

    # ---- prediction ------------------------------------------------------------------------------------------------

    @classmethod
    def deciding_options(cls, options: Mapping[str, Any]) -> tuple[str, ...]:
        return ("decision", "decision_new", *(() if options["theta_in_loss"] else ("theta",)))

    def image_features(self, pixels: Tensor) -> Tensor:
        """``f_v`` ``(B, d)``; with ``partner="prototype"`` ``[f_v, f_N]`` ``(B, 2d)``."""
        plan = PromptPlan.deep(self.tokens()[0], mix=self.options.mix)
        image = self.backbone.images(pixels, plan, prompts=self.options.partner == "prototype")
        f_v = F.normalize(image.cls, dim=-1)
        if image.prompts is None:
            return f_v
        return torch.cat([f_v, self._prototype(image.prompts)], dim=1)

    def build_weights(self, block: ClassBlock) -> Tensor:
        """Weights that give ``ℓ_final = θ ℓ_A + (1 − θ) partner`` at once: both are linear in the image features."""
        f_t = self._text_features(block, self.tokens()[1])
        decision = self.options.decision if block.trained else self.options.decision_new
        theta = self.options.theta if decision == "final" else 1.0
        if self.options.partner == "prototype":
            return torch.cat([theta * f_t, (1 - theta) * f_t], dim=1)  # (C, 2d)
        weights: Tensor = theta * f_t + (1 - theta) * block.extra["f_w"]
        return weights

    def decision(self) -> str:
        o = self.options
        second = "ℓ_R" if o.partner == "robustness" else "ℓ_rep"
        words = {"final": f"{o.theta:g}·ℓ_A + {1 - o.theta:g}·{second}", "alignment": "ℓ_A"}
        both = words[o.decision], words[o.decision_new]
        return both[0] if both[0] == both[1] else f"{both[0]}; new classes: {both[1]}"

    # ---- the baked form --------------------------------------------------------------------------------------------

    def small_tensors(self) -> dict[str, Tensor]:
        """The tokens that prompts and maps give, ``(layers, K, D)`` for each tower."""
        if self.options.partner == "prototype":
            raise UserError("Option partner='prototype' needs P_r at prediction: such an adapter cannot be baked.")
        vision, text = (torch.stack(list(tokens.values())) for tokens in self.tokens())
        small = {"baked_vision": vision, "baked_text": text.half()}  # text: only used for classes added later
        return small if self.options.resample == "run" else {**small, "drawn_epoch": self.drawn_epoch}
