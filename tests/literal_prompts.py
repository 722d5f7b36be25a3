"""CoOp and its successors written down a second time: literal, slow, in fp64, without a line of ``anprompt.methods``.

One image and one class at a time, all 77 text positions, every row of every block. Each function takes numbers only:
learnables by their names in the method's ``state_dict``, the options, the class names and a batch. It returns the loss
terms and the logits ``(B, C)``. Equation numbers are those at the top of the method's file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from anprompt.text import ENSEMBLE, DescriptionBank
from literal_anprompt import SCALE, Encoder, cross_entropy, layer_norm, mask, softmax, unit

Learnables = Mapping[str, Tensor]
Outcome = tuple[dict[str, Tensor], Tensor]


class PromptedEncoder(Encoder):
    """Both towers, for one image or one sentence, with prompts from the input on."""

    def prompted_text(self, sentence: str, words: Mapping[int, Tensor], deep: Sequence[Tensor] = ()) -> Tensor:
        """``(d,)`` at EOT. words: position -> vector ``(D,)`` that stands there instead of the word's embedding.

        deep: ``(K, D)`` each, hidden states 1..K before block 2, 3, …
        """
        ids = self.tokenizer([sentence])[0].tolist()
        embedded = [words[i] if i in words else self.w["text.token.weight"][n] for i, n in enumerate(ids)]
        x = torch.stack(embedded) + self.w["text.position"]
        for number in range(1, self.config.text.depth + 1):
            if 0 <= number - 2 < len(deep):
                new = deep[number - 2]
                x = torch.cat([x[:1], new, x[1 + len(new) :]])
            x = self.block(x, "text", number, mask(len(x), True))
        x = self.norm(x, "text.ln_final", self.config.text.eps)
        return self.w["text.projection.weight"] @ x[ids.index(self.config.eot_id)]

    def prompted_image(self, pixels: Tensor, tokens: Sequence[Tensor] = ()) -> Tensor:
        """``(d,)`` of the class token. tokens: ``(K, D)`` each, behind the patches, before ``ln_pre``, block 2, 3, …"""
        p, eps = self.config.patch_size, self.config.vision.eps
        kernel = self.w["vision.patch.weight"].flatten(1)
        rows = [self.w["vision.cls"]]
        for top in range(0, pixels.shape[1], p):
            for left in range(0, pixels.shape[2], p):
                rows.append(kernel @ pixels[:, top : top + p, left : left + p].double().flatten())
        x = torch.stack(rows) + self.w["vision.position"]
        if tokens:
            x = torch.cat([x, tokens[0]])
        x = self.norm(x, "vision.ln_pre", eps)
        for number in range(1, self.config.vision.depth + 1):
            if 2 <= number <= len(tokens):
                new = tokens[number - 1]
                x = torch.cat([x[: len(x) - len(new)], new])
            x = self.block(x, "vision", number, mask(len(x), False))
        return self.w["vision.projection.weight"] @ self.norm(x, "vision.ln_post", eps)[0]

    def unit_images(self, pixels: Tensor, tokens: Sequence[Tensor] = ()) -> Tensor:
        return torch.stack([unit(self.prompted_image(one, tokens)) for one in pixels])

    def unit_templates(self, names: Sequence[str], template: str = "a photo of a {}.") -> Tensor:
        return torch.stack([unit(self.text(template.replace("{}", name))) for name in names])


@dataclass
class Case:
    """What a literal method is given."""

    encoder: PromptedEncoder
    leaf: Learnables
    options: Any
    names: Sequence[str]
    pixels: Tensor
    labels: Tensor
    bank: DescriptionBank
    extra: Mapping[str, Tensor]  # what else the batch has
    epoch: int = 0
    backgrounds: Sequence[str] = ()


def context_features(case: Case, context: Tensor) -> Tensor:
    """Unit ``(C, d)`` of "[v]_1 … [v]_M name."."""
    m = len(context)
    words = {1 + i: context[i] for i in range(m)}
    return torch.stack([unit(case.encoder.prompted_text(f"{'X ' * m}{name}.", words)) for name in case.names])


def coop(case: Case) -> Outcome:
    context, m = case.leaf["context"], case.options.length
    before = {"end": m, "middle": m // 2, "front": 0}[case.options.position]
    rows = []
    for name in case.names:
        sentence = "X " * before + name + " X" * (m - before) + "."
        ids = case.encoder.tokenizer([name])[0].tolist()
        inside = ids.index(case.encoder.config.eot_id) - 1  # tokens of the name
        words = {1 + i + (inside if i >= before else 0): context[i] for i in range(m)}
        rows.append(unit(case.encoder.prompted_text(sentence, words)))
    logits = SCALE * case.encoder.unit_images(case.pixels) @ torch.stack(rows).T
    loss = cross_entropy(logits, case.labels)
    return {"total": loss, "cross_entropy": loss}, logits


def kgcoop(case: Case) -> Outcome:
    f_t = context_features(case, case.leaf["context"])
    logits = SCALE * case.encoder.unit_images(case.pixels) @ f_t.T
    frozen = case.encoder.unit_templates(case.names, case.options.target or "a photo of a {}.")
    knowledge = 1 - sum((f_t[c] * frozen[c]).sum() for c in range(len(f_t))) / len(f_t)
    ce = cross_entropy(logits, case.labels)
    return {"total": ce + 8 * knowledge, "cross_entropy": ce, "knowledge": knowledge}, logits


def cocoop(case: Case) -> Outcome:
    leaf, rows = case.leaf, []
    for f_v in case.encoder.unit_images(case.pixels):
        hidden = (leaf["meta_net.0.weight"] @ f_v + leaf["meta_net.0.bias"]).clamp(min=0)
        shift = leaf["meta_net.2.weight"] @ hidden + leaf["meta_net.2.bias"]
        context = torch.stack([v + shift for v in leaf["context"]])
        rows.append(SCALE * context_features(case, context) @ f_v)
    logits = torch.stack(rows)
    loss = cross_entropy(logits, case.labels)
    return {"total": loss, "cross_entropy": loss}, logits


def prograd(case: Case) -> Outcome:
    f_v, t = case.encoder.unit_images(case.pixels), case.options.temperature
    logits = SCALE * f_v @ context_features(case, case.leaf["context"]).T
    teacher = SCALE * f_v @ case.encoder.unit_templates(case.names).T
    p, q = softmax(teacher / t), softmax(logits / t)
    kl = sum(-(p[b, c] * torch.log(q[b, c])) for b in range(len(p)) for c in range(p.shape[1])) * t * t / len(p)
    ce = cross_entropy(logits, case.labels)
    return {"total": ce, "cross_entropy": ce, "zero_shot_alignment": torch.as_tensor(kl)}, logits


def deep_features(case: Case, text: Sequence[Tensor], start: str = "a photo of a") -> list[Tensor]:
    """``(d,)`` of each class, not normalised: the first prompts instead of words, the others over hidden states."""
    k = len(text[0])
    front = start if len(start.split()) >= k else "X " * (k - 1) + "X"
    words = {1 + i: text[0][i] for i in range(k)}
    return [case.encoder.prompted_text(f"{front} {name}.", words, text[1:]) for name in case.names]


def maple_tokens(case: Case) -> tuple[list[Tensor], list[Tensor]]:
    """Text and vision prompts of each block."""
    text, vision = [], []
    for block in range(case.options.depth):
        p = case.leaf["text_prompts"][block]
        w, b = (case.leaf[f"to_vision.maps.{block}.{kind}"] for kind in ("weight", "bias"))
        text.append(p)
        vision.append(torch.stack([w @ p[i] + b for i in range(len(p))]))
    return text, vision


def maple(case: Case) -> Outcome:
    text, vision = maple_tokens(case)
    f_t = torch.stack([unit(f) for f in deep_features(case, text, case.options.start)])
    logits = SCALE * case.encoder.unit_images(case.pixels, vision) @ f_t.T
    loss = cross_entropy(logits, case.labels)
    return {"total": loss, "cross_entropy": loss}, logits


def coprompt(case: Case) -> Outcome:
    text, vision = maple_tokens(case)

    def adapted(x: Tensor, which: str, share: float) -> Tensor:
        hidden = (case.leaf[f"{which}.0.weight"] @ x).clamp(min=0)
        return unit(share * (case.leaf[f"{which}.2.weight"] @ hidden).clamp(min=0) + (1 - share) * x)

    g_t = torch.stack([adapted(f, "text_adapter", 0.2) for f in deep_features(case, text)])
    g_v = torch.stack([adapted(case.encoder.prompted_image(one, vision), "image_adapter", 0.1) for one in case.pixels])
    logits = SCALE * g_v @ g_t.T
    texts, images = [], []
    for c, name in enumerate(case.names):
        sentences = case.bank.main[name]
        drawn = sentences[int(float(case.extra["chance"]) * len(sentences))]
        texts.append(1 - (g_t[c] * unit(case.encoder.text(drawn))).sum())
    for b, other in enumerate(case.extra["views"][0]):
        images.append(1 - (g_v[b] * unit(case.encoder.prompted_image(other))).sum())
    ce, consistency = cross_entropy(logits, case.labels), torch.stack(texts).mean() + torch.stack(images).mean()
    total = ce + case.options.weight * consistency
    return {"total": total, "cross_entropy": ce, "consistency": consistency}, logits


def promptsrc(case: Case) -> Outcome:
    o, leaf = case.options, case.leaf
    text, vision = ([leaf[name][i] for i in range(o.depth)] for name in ("text_prompts", "vision_prompts"))
    f_t = torch.stack([unit(f) for f in deep_features(case, text, o.start)])
    f_v = case.encoder.unit_images(case.pixels, vision)
    logits = SCALE * f_v @ f_t.T
    if o.wordings == "ensemble":
        rows = []
        for name in case.names:
            features = [case.encoder.text(template.replace("{}", name)) for template in ENSEMBLE]
            rows.append(unit(sum(features[1:], features[0]) / len(features)))
        t_clip = torch.stack(rows)
    else:
        t_clip = case.encoder.unit_templates(case.names)
    v_clip = case.encoder.unit_images(case.pixels)
    p_clip, p = softmax(SCALE * v_clip @ t_clip.T), softmax(logits)
    terms = [
        p_clip[b, c] * (torch.log(p_clip[b, c]) - torch.log(p[b, c])) for b in range(len(p)) for c in range(p.shape[1])
    ]
    ce, kl = cross_entropy(logits, case.labels), torch.stack(terms).sum() / len(terms)
    l_text, l_image = (f_t - t_clip).abs().sum() / f_t.numel(), (f_v - v_clip).abs().sum() / f_v.numel()
    total = ce + 25 * l_text + 10 * l_image + kl
    return {"total": total, "cross_entropy": ce, "text_distance": l_text, "image_distance": l_image,
            "zero_shot_agreement": kl}, logits  # fmt: skip


@torch.enable_grad()
def cam_mask(case: Case, pixels: Tensor, vision: Sequence[Tensor], weight: Tensor) -> Tensor:
    """``(H, W)`` of zeros and ones: Grad-CAM of the score ``cos(f_v, weight)`` over half its maximum. DAPT's (2)."""
    encoder, config = case.encoder, case.encoder.config.vision
    states: list[Tensor] = []

    class Recorder(PromptedEncoder):
        def block(self, x: Tensor, tower: str, number: int, allowed: Tensor) -> Tensor:
            states.append(x)
            return super().block(x, tower, number, allowed)

    recorder = Recorder.__new__(Recorder)
    recorder.__dict__ = encoder.__dict__
    recorder.prompted_image(pixels, vision)
    x, name = states[-1].detach(), f"vision.blocks.{config.depth - 1}"
    a = encoder.norm(x, f"{name}.ln_1", config.eps).requires_grad_()  # (L, D)
    d, size = a.shape[1], a.shape[1] // config.heads
    qkv = encoder.linear(a, f"{name}.qkv")
    heads = []
    for head in range(config.heads):
        q, k, v = (qkv[:, j * d + head * size : j * d + (head + 1) * size] for j in range(3))
        heads.append(softmax(q[0] @ k.T / size**0.5) @ v)
    cls = x[0] + encoder.linear(torch.cat(heads), f"{name}.out")
    hidden = encoder.linear(encoder.norm(cls, f"{name}.ln_2", config.eps), f"{name}.fc")
    cls = cls + encoder.linear(hidden / (1 + torch.exp(-1.702 * hidden)), f"{name}.proj")
    f_v = unit(encoder.w["vision.projection.weight"] @ encoder.norm(cls, "vision.ln_post", config.eps))
    (gradient,) = torch.autograd.grad(f_v @ weight, a)
    side = pixels.shape[1] // encoder.config.patch_size
    alpha = gradient[1 : 1 + side * side].mean(dim=0)
    cam = torch.stack([(alpha * a[1 + i]).sum().clamp(min=0) for i in range(side * side)]).detach().view(side, side)
    out = torch.zeros(pixels.shape[1:], dtype=torch.double)
    scale = (side - 1) / (pixels.shape[1] - 1)  # corners meet corners
    for i in range(pixels.shape[1]):
        for j in range(pixels.shape[2]):
            top, left = min(int(i * scale), side - 2), min(int(j * scale), side - 2)
            y, z = i * scale - top, j * scale - left
            upper = (1 - z) * cam[top, left] + z * cam[top, left + 1]
            lower = (1 - z) * cam[top + 1, left] + z * cam[top + 1, left + 1]
            out[i, j] = (1 - y) * upper + y * lower
    return (out > 0.5 * out.max()).double()


def dapt(case: Case) -> Outcome:
    o = case.options
    text, vision = maple_tokens(case)
    f_t = torch.stack([unit(f) for f in deep_features(case, text)])
    sentences = [f"a clean origami {word}." for word in case.backgrounds]
    t_bg = torch.stack([unit(case.encoder.prompted_text(s, {}, text[1:])) for s in sentences])
    f_v = case.encoder.unit_images(case.pixels, vision)
    logits = SCALE * f_v @ f_t.T
    f_fg, f_bg = [], []
    for b, one in enumerate(case.pixels):
        m = cam_mask(case, one, [v.detach() for v in vision], f_t[case.labels[b]].detach())
        f_fg.append(unit(case.encoder.prompted_image(m * one, vision)).detach())
        f_bg.append(unit(case.encoder.prompted_image((1 - m) * one, vision)))
    ce = cross_entropy(SCALE * f_v @ torch.cat([f_t, t_bg[:7]]).T if o.background_columns else logits, case.labels)
    if case.epoch < o.switch:
        parts = [
            (1.5 + torch.linalg.norm(v - fg + 1e-6) - torch.linalg.norm(v - bg.detach() + 1e-6)).clamp(min=0)
            for v, fg, bg in zip(f_v, f_fg, f_bg, strict=True)
        ]  # 1e-6: PyTorch's own guard against distances of nothing
        extra = 0.8 * torch.stack(parts).mean()
    else:
        l_bg = SCALE * torch.stack(f_bg) @ t_bg[7 * o.background_columns :].T
        extra = 0.1 * cross_entropy(SCALE * torch.stack(f_fg) @ f_t.T, case.labels)
        extra = extra + 0.5 * cross_entropy(l_bg, l_bg.argmax(dim=1))
    return {"total": ce + extra, "cross_entropy": ce, "decoupling": extra}, logits


def norm_of(x: Tensor, leaf: Learnables, name: str) -> Tensor:
    return layer_norm(x, leaf[f"{name}.weight"], leaf[f"{name}.bias"], 1e-5)


def multi_head(query: Tensor, keys: Tensor, values: Tensor, leaf: Learnables, name: str) -> Tensor:
    """One query ``(D,)`` on ``(L, D)``."""
    d = len(query)
    w, b = leaf[f"{name}.in_proj_weight"], leaf[f"{name}.in_proj_bias"]
    q, k, v = w[:d] @ query + b[:d], keys @ w[d : 2 * d].T + b[d : 2 * d], values @ w[2 * d :].T + b[2 * d :]
    size = d // max(1, d // 64)
    heads = [
        softmax(q[i : i + size] @ k[:, i : i + size].T / size**0.5) @ v[:, i : i + size] for i in range(0, d, size)
    ]
    return leaf[f"{name}.out_proj.weight"] @ torch.cat(heads) + leaf[f"{name}.out_proj.bias"]


def exchange(source: Sequence[Tensor], target: Sequence[Tensor], leaf: Learnables, name: str) -> list[Tensor]:
    """HiCroPL's (1) to (3): new prompts of each block of ``target``."""
    proxies = []
    for i, prompts in enumerate(source):
        z, own = leaf[f"{name}.proxies"][i, 0], f"{name}.pools.{i}"
        keys = norm_of(prompts, leaf, f"{own}.ln_1")
        read = multi_head(norm_of(z, leaf, f"{own}.ln_1"), keys, keys, leaf, f"{own}.attention")
        proxies.append(norm_of(z + read, leaf, f"{own}.ln_2"))
    m = f"{name}.mapper"

    def linear(x: Tensor, which: str) -> Tensor:
        return leaf[f"{m}.{which}.weight"] @ x + leaf[f"{m}.{which}.bias"]

    keys = torch.stack([norm_of(linear(z, "key"), leaf, f"{m}.ln_1") for z in proxies])
    values = torch.stack([norm_of(linear(z, "value"), leaf, f"{m}.ln_1") for z in proxies])
    out = []
    for prompts in target:
        rows = []
        for prompt in prompts:
            asked = linear(prompt, "query")
            q = asked + multi_head(norm_of(asked, leaf, f"{m}.ln_1"), keys, values, leaf, f"{m}.attention")
            hidden = linear(norm_of(q, leaf, f"{m}.ln_2"), "ffn.0")
            rows.append(q + linear(hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5)), "ffn.2"))
        out.append(torch.stack(rows))
    return out


def hicropl(case: Case) -> Outcome:
    o, leaf = case.options, case.leaf
    text, vision = ([leaf[name][i] for i in range(o.depth)] for name in ("text_prompts", "vision_prompts"))
    if o.train_maps:
        lower = exchange(text[: o.cross], vision[: o.cross], leaf, "to_vision")
        upper = exchange(vision[o.cross :], text[o.cross :], leaf, "to_text")
        vision, text = lower + vision[o.cross :], text[: o.cross] + upper
    described = []
    for name in case.names:
        features = [unit(case.encoder.text(sentence)) for sentence in case.bank.main[name]]
        described.append(unit(torch.stack(features).mean(dim=0)))
    v_clip, t_clip = case.encoder.unit_images(case.pixels), torch.stack(described)
    f_t = torch.stack([unit(unit(f) + t) for f, t in zip(deep_features(case, text), t_clip, strict=True)])
    f_v = torch.stack([unit(f + v) for f, v in zip(case.encoder.unit_images(case.pixels, vision), v_clip, strict=True)])
    logits = SCALE * f_v @ f_t.T
    ce = cross_entropy(logits, case.labels)
    consistency = 2 - (f_t * t_clip).sum() / len(f_t) - (f_v * v_clip).sum() / len(f_v)
    return {"total": ce + 12 * consistency, "cross_entropy": ce, "consistency": consistency}, logits


def plain_gradients(case: Case, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = torch.autograd.grad(losses["total"], list(case.leaf.values()), retain_graph=True)
    return dict(zip(case.leaf, found, strict=True))


def projected_gradients(case: Case, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """ProGrad's (4)."""
    out = {}
    for name, leaf in case.leaf.items():
        (g_b,) = torch.autograd.grad(losses["zero_shot_alignment"], leaf, retain_graph=True)
        (g_a,) = torch.autograd.grad(losses["cross_entropy"], leaf, retain_graph=True)
        length = torch.sqrt((g_b * g_b).sum())
        if (g_a * g_b).sum() < 0:
            out[name] = g_a - case.options.projection * (g_a * (g_b / length)).sum() * (g_b / length)
        else:
            out[name] = g_a
    return out


LITERAL: dict[str, Callable[[Case], Outcome]] = {
    "coop": coop, "kgcoop": kgcoop, "cocoop": cocoop, "prograd": prograd, "maple": maple, "promptsrc": promptsrc,
    "coprompt": coprompt, "dapt": dapt, "hicropl": hicropl,
}  # fmt: skip
