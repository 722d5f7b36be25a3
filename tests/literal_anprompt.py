"""ANPrompt written down a second time: literal, slow, in fp64, and without a line of ``anprompt.methods``.

One image and one class at a time, all 77 text positions, an explicit causal mask, every row of every block, a separate
teacher pass, soft-maxes spelled out. It only takes numbers: the backbone's weights, the learnables by their names in
the method's ``state_dict``, and the drawn sentences. Equation numbers are the paper's; ``snapshot`` follows the public
snapshot S2 of the authors' code. d is the joint width, D a tower's width, K the number of prompts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from sklearn.cluster import KMeans
from torch import Tensor

from anprompt.clip import Backbone
from anprompt.text import DescriptionBank

Drawn = Mapping[str, tuple[str, str]]  # class name -> (main sentence, noise sentence)
SCALE = 100.0


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    mean = x.mean(dim=-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + eps) * weight + bias


def softmax(x: Tensor) -> Tensor:
    """Over the last dimension."""
    e = torch.exp(x - x.max(dim=-1, keepdim=True).values)
    return e / e.sum(dim=-1, keepdim=True)


def unit(x: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).sum(dim=-1, keepdim=True))


@cache
def mask(length: int, causal: bool) -> Tensor:
    """Row i of ``(L, L)`` says at which positions j it may look: all of them, or those up to itself."""
    return torch.tensor([[not causal or j <= i for j in range(length)] for i in range(length)])


class Encoder:
    """Both towers of CLIP, for one image ``(3, H, W)`` or one sentence, with deep prompts given as block -> (K, D)."""

    def __init__(self, backbone: Backbone) -> None:
        self.w = {name: tensor.double() for name, tensor in backbone.state_dict().items()}
        self.config = backbone.config
        self.tokenizer = backbone.tokenizer

    def norm(self, x: Tensor, name: str, eps: float) -> Tensor:
        return layer_norm(x, self.w[f"{name}.weight"], self.w[f"{name}.bias"], eps)

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def block(self, x: Tensor, tower: str, number: int, allowed: Tensor) -> Tensor:
        """Block ``number`` (from 1) on ``(L, D)``; row i may look at the columns j with ``allowed[i, j]``."""
        name = f"{tower}.blocks.{number - 1}"
        config = getattr(self.config, tower)
        d = x.shape[1]
        qkv = self.linear(self.norm(x, f"{name}.ln_1", config.eps), f"{name}.qkv")  # (L, 3D)
        q, k, v = qkv[:, :d], qkv[:, d : 2 * d], qkv[:, 2 * d :]
        size = d // config.heads
        heads = []
        for head in range(config.heads):
            own = slice(head * size, (head + 1) * size)
            scores = q[:, own] @ k[:, own].T / math.sqrt(size)  # (L, L)
            heads.append(softmax(scores.masked_fill(~allowed, -math.inf)) @ v[:, own])
        x = x + self.linear(torch.cat(heads, dim=1), f"{name}.out")
        hidden = self.linear(self.norm(x, f"{name}.ln_2", config.eps), f"{name}.fc")
        if config.activation == "quick_gelu":
            hidden = hidden / (1 + torch.exp(-1.702 * hidden))
        else:
            hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        return x + self.linear(hidden, f"{name}.proj")

    def blocks(self, x: Tensor, tower: str, tokens: Mapping[int, Tensor], beta: float) -> Tensor:
        """All blocks; ``tokens`` stand at positions 1..K: inserted at the first, β·new + (1−β)·old later. (9)"""
        for number in range(1, getattr(self.config, tower).depth + 1):
            if number in tokens:
                new = tokens[number]
                k = len(new)
                if number == min(tokens):
                    x = torch.cat([x[:1], new, x[1:]])
                else:
                    x = torch.cat([x[:1], beta * new + (1 - beta) * x[1 : 1 + k], x[1 + k :]])
            x = self.block(x, tower, number, mask(len(x), tower == "text"))
        return x

    def image(
        self, pixels: Tensor, tokens: Mapping[int, Tensor] | None = None, beta: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """``(d,)`` of the class token, not normalised, and the K prompt outputs ``(K, D)`` after the final norm."""
        tokens, p, eps = tokens or {}, self.config.patch_size, self.config.vision.eps
        kernel = self.w["vision.patch.weight"].flatten(1)  # (D, 3·p·p)
        rows = [self.w["vision.cls"]]
        for top in range(0, pixels.shape[1], p):
            for left in range(0, pixels.shape[2], p):
                rows.append(kernel @ pixels[:, top : top + p, left : left + p].double().flatten())
        x = self.norm(torch.stack(rows) + self.w["vision.position"], "vision.ln_pre", eps)
        x = self.norm(self.blocks(x, "vision", tokens, beta), "vision.ln_post", eps)
        k = len(next(iter(tokens.values()))) if tokens else 0
        return self.w["vision.projection.weight"] @ x[0], x[1 : 1 + k]

    def text(self, sentence: str, tokens: Mapping[int, Tensor] | None = None, beta: float = 1.0) -> Tensor:
        """``(d,)`` at EOT, not normalised; all positions run, also those behind EOT."""
        tokens = tokens or {}
        ids = self.tokenizer([sentence])[0].tolist()
        x = torch.stack([self.w["text.token.weight"][i] for i in ids]) + self.w["text.position"]
        x = self.norm(self.blocks(x, "text", tokens, beta), "text.ln_final", self.config.text.eps)
        k = len(next(iter(tokens.values()))) if tokens else 0
        return self.w["text.projection.weight"] @ x[ids.index(self.config.eot_id) + k]


@dataclass
class Logits:
    """Alignment, robustness, weak noise and prototype logits, ``(B, C)`` each."""

    l_a: Tensor
    l_r: Tensor
    l_w: Tensor
    l_rep: Tensor


@dataclass
class Setting:
    """The numbers of a preset that are not learned."""

    alpha: float = 0.001
    epsilon: float = 0.01
    theta: float = 0.7
    sim_weight: float = 1.0
    free: float = 0.2
    beta: float = 0.5


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    p = softmax(logits)
    return torch.stack([-torch.log(p[b, int(y)]) for b, y in enumerate(labels)]).mean()


def kl(p: Tensor, q: Tensor) -> Tensor:
    """``KL(p ‖ q)``, summed over the batch."""
    terms = []
    for b in range(p.shape[0]):
        for c in range(p.shape[1]):
            terms.append(p[b, c] * (torch.log(p[b, c]) - torch.log(q[b, c])))
    return torch.stack(terms).sum()


def std(x: Tensor) -> Tensor:
    """Standard deviation over all entries, unbiased."""
    return torch.sqrt(((x - x.mean()) ** 2).sum() / (x.numel() - 1))


class LiteralANPrompt:
    """Both presets. ``leaf`` holds fp64 clones of the learnables; :meth:`losses` fills their gradients."""

    def __init__(
        self,
        backbone: Backbone,
        preset: str,
        learnables: Mapping[str, Tensor],
        drawn: Drawn,
        *,
        template: str = "a photo of a {}.",
        setting: Setting | None = None,
    ) -> None:
        self.encoder, self.preset, self.drawn, self.template = Encoder(backbone), preset, drawn, template
        self.setting = setting or Setting()
        self.leaf = {name: t.detach().double().clone().requires_grad_() for name, t in learnables.items()}
        self.vision_layers, self.text_layers = (
            range(tower.depth - 6, tower.depth + 1) for tower in (backbone.config.vision, backbone.config.text)
        )
        self.p_w = self.noise_prompts()

    # ---- frozen texts

    def f_w(self, drawn: Drawn) -> Tensor:
        """Weak noise features ``(C, d)``, not normalised."""
        rows = []
        for main, noise in drawn.values():
            f_m, f_n = unit(self.encoder.text(main)), unit(self.encoder.text(noise))
            rows.append(f_m + self.setting.alpha * f_n)  # (2)
        return torch.stack(rows)

    def noise_prompts(self) -> Tensor:
        """``P_w``: K-means centres of the rows of ``f_w``, ``(K, d)``."""
        k = len(self.leaf["prompts"])
        means = KMeans(k, n_init=10, random_state=0).fit(self.f_w(self.drawn).numpy())
        return torch.tensor(means.cluster_centers_)

    # ---- prompts

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.leaf[f"{name}.weight"].T + self.leaf[f"{name}.bias"]

    def vision_tokens(self) -> dict[int, Tensor]:
        if self.preset == "paper":
            p_a = self.leaf["prompts"] + self.setting.epsilon * self.p_w  # (8)
            return {n: self.linear(p_a, f"to_vision.maps.{i}") for i, n in enumerate(self.vision_layers)}
        tokens = {}
        for i, number in enumerate(self.vision_layers):
            update = self.leaf["to_vision.up"][i] @ self.leaf["to_vision.down"][i]  # rank 4
            matrix = self.leaf["to_vision.shared.weight"] + update
            own = self.leaf["prompts"] @ matrix.T + self.leaf["to_vision.bias"][i]
            tokens[number] = own + self.setting.free * self.linear(self.leaf["free"], f"free_to_vision.maps.{i}")
        return tokens

    def text_tokens(self) -> dict[int, Tensor]:
        p_a = self.leaf["prompts"]
        if self.preset == "paper":
            p_a = p_a + self.setting.epsilon * self.p_w  # (8)
        return {n: self.linear(p_a, f"to_text.maps.{i}") for i, n in enumerate(self.text_layers)}

    # ---- features and logits

    def features(self, pixels: Tensor, drawn: Drawn) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Unit ``f_v`` (B, d), ``f_N`` (B, d), ``f_t`` (C, d), ``f_w`` (C, d)."""
        vision, text = self.vision_tokens(), self.text_tokens()
        if self.preset == "paper":
            beta, projection = 1.0, self.leaf["projection"]
        else:
            frozen = self.encoder.w["vision.projection.weight"]
            beta, projection = self.setting.beta, frozen + self.leaf["projection_up"] @ self.leaf["projection_down"]
        f_v, f_n = [], []
        for one in pixels:
            cls, outputs = self.encoder.image(one, vision, beta)
            mean = sum(outputs[i] for i in range(len(outputs))) / len(outputs)  # (4)
            f_v.append(unit(cls))
            f_n.append(unit(projection @ mean))
        f_t = [unit(self.encoder.text(self.template.replace("{}", name), text)) for name in drawn]
        return torch.stack(f_v), torch.stack(f_n), torch.stack(f_t), unit(self.f_w(drawn))

    def logits(self, f_v: Tensor, f_n: Tensor, f_t: Tensor, f_w: Tensor) -> Logits:
        return Logits(SCALE * f_v @ f_t.T, SCALE * f_v @ f_w.T, SCALE * f_n @ f_w.T, SCALE * f_n @ f_t.T)  # l_w: (5)

    def similarity(self, pixels: Tensor, f_v: Tensor, f_t: Tensor) -> Tensor:
        """``(1 − mean cos(f_v, f_v^clip)) + (1 − mean cos(f_t, f_t^clip))``; the teacher runs on its own."""
        images = [(unit(self.encoder.image(one)[0]) * f_v[b]).sum() for b, one in enumerate(pixels)]
        texts = []
        for c, name in enumerate(self.drawn):
            texts.append((unit(self.encoder.text(self.template.replace("{}", name))) * f_t[c]).sum())
        return (1 - torch.stack(images).mean()) + (1 - torch.stack(texts).mean())

    def losses(self, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The loss terms of one batch, ``total`` among them; its gradients end up in ``leaf[…].grad``."""
        s, (f_v, f_n, f_t, f_w) = self.setting, self.features(pixels, self.drawn)
        logits = self.logits(f_v, f_n, f_t, f_w)
        p_a, p_w = softmax(logits.l_a), softmax(logits.l_w)
        similarity = self.similarity(pixels, f_v, f_t)
        if self.preset == "paper":
            ce = cross_entropy(logits.l_a, labels)
            alignment = kl(p_a, p_w)  # (6)
            gamma = (1 / (std(logits.l_r) * logits.l_r.numel() + 1e-6)).detach()  # (7)
        else:
            ce = s.theta * cross_entropy(logits.l_a, labels) + (1 - s.theta) * cross_entropy(logits.l_rep, labels)
            alignment = kl(p_w, p_a)
            gamma = 1 / ((std(logits.l_a) + 1e-6) * logits.l_a.numel())
        total = ce + s.sim_weight * similarity + gamma * alignment  # (3)
        total.backward()
        return {"total": total, "cross_entropy": ce, "similarity": similarity, "weak_alignment": alignment,
                "gamma": gamma}  # fmt: skip

    def decide(self, pixels: Tensor, drawn: Drawn, *, trained: bool) -> Tensor:
        """Logits ``(B, C)`` of the prediction: ℓ_final (paper); ℓ_fusion, or ℓ_A for new classes (snapshot)."""
        logits = self.logits(*self.features(pixels, drawn))
        if self.preset == "paper":
            return self.setting.theta * logits.l_a + (1 - self.setting.theta) * logits.l_r
        return self.setting.theta * logits.l_a + (1 - self.setting.theta) * logits.l_rep if trained else logits.l_a


def drawn_sentences(used: DescriptionBank) -> Drawn:
    """From what a method says it used: exactly one main and one noise sentence of each class."""
    assert all(len(own) == 1 for kind in (used.main, used.noise) for own in kind.values())
    return {name: (used.main[name][0], used.noise[name][0]) for name in used.main}
