"""Every option of ANPrompt does what it says. Logits that the formulas start from come from the literal twin."""

from __future__ import annotations

from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Tensor

from anprompt.adapter import load_adapter, save_adapter
from anprompt.clip import Backbone
from anprompt.errors import UserError
from anprompt.text import PARAPHRASES, DescriptionBank
from helpers_methods import NAMES, NEW_NAMES, anprompt, bank, batch, small_backbone
from literal_anprompt import LiteralANPrompt, Logits, Setting, drawn_sentences

DATA = batch(3)
PIXELS, LABELS = DATA["pixels"], DATA["labels"]
BANK = bank()


@cache
def literal(alpha: float = 0.001, epsilon: float = 0.01) -> Logits:
    """The four logits ``(B, C)`` of default learnables, by the literal implementation."""
    method, setting = anprompt(), Setting(alpha=alpha, epsilon=epsilon)
    drawn = drawn_sentences(method.used_texts(NAMES))
    twin = LiteralANPrompt(small_backbone(), "paper", dict(method.named_parameters()), drawn, setting=setting)
    with torch.no_grad():
        logits = twin.logits(*twin.features(PIXELS, drawn))
    return Logits(*(tensor.float() for tensor in vars(logits).values()))


def terms(**options: Any) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in anprompt(**options).losses(DATA).items()}


def close(ours: Tensor | float, expected: Tensor | float, tolerance: float = 2e-5) -> None:
    torch.testing.assert_close(torch.as_tensor(ours), torch.as_tensor(expected), rtol=tolerance, atol=1e-6)


def f_w_of(method: Any) -> Tensor:
    return method.blocks[0].extra["f_w"]


def fused(mains: list[str], noises: list[str], alpha: float) -> Tensor:
    encode = small_backbone().encode_text
    return encode(mains) + alpha * encode(noises)


# ---- losses


def test_distance_of_the_weak_alignment() -> None:
    l_a, l_w = literal().l_a, literal().l_w
    p_a, p_w = F.softmax(l_a.double(), 1), F.softmax(l_w.double(), 1)
    expected = {
        ("kl", "forward"): (p_a * torch.log(p_a / p_w)).sum(),
        ("kl", "reverse"): (p_w * torch.log(p_w / p_a)).sum(),
        ("l1", "forward"): sum((a - w).abs().sum() for a, w in zip(l_a, l_w, strict=True)),
        ("mse", "forward"): sum(((a - w) ** 2).sum() for a, w in zip(l_a, l_w, strict=True)),
        ("cosine", "forward"): sum(1 - a @ w / (a.norm() * w.norm()) for a, w in zip(l_a, l_w, strict=True)),
    }
    for (distance, direction), value in expected.items():
        found = terms(distance=distance, kl_direction=direction)
        close(found["weak_alignment"], torch.as_tensor(value).float(), 1e-4)
        close(found["total"], found["cross_entropy"] + found["similarity"] + found["gamma"] * found["weak_alignment"])


@pytest.mark.parametrize("source", ["robustness", "alignment"])
def test_gamma_formulas(source: str) -> None:
    logits = literal().l_r if source == "robustness" else literal().l_a
    n, std = logits.numel(), logits.flatten().std(correction=1)
    p = F.softmax(logits, dim=1)
    entropy = -(p * torch.log(p)).sum(dim=1).mean()
    expected = {
        "std": 1 / (std * n + 0.5),  # (7), with ε0 = 0.5 to see it
        "log": 1 / (torch.log(std + 1.1) * n),  # (10)
        "mean": 1 / (std / (logits.mean() + 0.5) * n),  # (11)
        "entropy": 1 / (entropy * n),  # (12), (13)
    }
    for formula, value in expected.items():
        close(terms(gamma=formula, gamma_logits=source, gamma_epsilon=0.5)["gamma"], value, 2e-4)
    close(terms(gamma_logits=source)["gamma"], 1 / (std * n))


def test_detach_gamma_only_changes_gradients() -> None:
    gradients = []
    for detach in (True, False):
        method = anprompt(detach_gamma=detach)
        losses = method.losses(DATA)
        assert losses["gamma"].requires_grad is not detach
        losses["total"].backward()
        gradients.append((losses["total"].item(), method.prompts.grad))
    assert gradients[0][0] == gradients[1][0]
    assert not torch.equal(gradients[0][1], gradients[1][1])


def test_theta_in_loss_and_similarity_weight() -> None:
    logits = literal()
    alone = F.cross_entropy(logits.l_a, LABELS)
    close(terms(theta=0.4)["cross_entropy"], alone)  # θ only decides, unless theta_in_loss
    for partner, second in (("robustness", logits.l_r), ("prototype", logits.l_rep)):
        found = terms(theta=0.4, theta_in_loss=True, partner=partner)
        close(found["cross_entropy"], 0.4 * alone + 0.6 * F.cross_entropy(second, LABELS))
    plain, heavy = terms(sim_weight=0.0), terms(sim_weight=5.0)
    assert plain["similarity"] > 0
    close(heavy["total"] - plain["total"], 5 * plain["similarity"])


@pytest.mark.parametrize(("text_noise", "wa_loss", "anti_prompt"), list(product([True, False], repeat=3)))
def test_components_of_table_iv(text_noise: bool, wa_loss: bool, anti_prompt: bool) -> None:
    parts = {"text_noise": text_noise, "wa_loss": wa_loss, "anti_prompt": anti_prompt}
    method = anprompt(**parts, alpha=0.5, epsilon=1.0)
    drawn = method.used_texts(NAMES)
    f_w = fused([drawn.main[n][0] for n in NAMES], [drawn.noise[n][0] for n in NAMES], 0.5 if text_noise else 0.0)
    close(f_w_of(method), F.normalize(f_w, dim=-1))

    losses = method.losses(DATA)
    rest = losses["total"] - losses["cross_entropy"] - losses["similarity"]
    close(rest, losses["gamma"] * losses["weak_alignment"] if wa_loss else 0.0)

    assert bool(method.noise_prompts.any()) is anti_prompt
    vision, text = method.tokens()
    p_a = method.prompts + (method.noise_prompts if anti_prompt else 0)  # (8), ε = 1
    close(vision[6], method.to_vision(p_a, 0))
    close(text[7], method.to_text(p_a, 1))


# ---- decision


def test_alpha_epsilon_and_theta_reach_the_logits() -> None:
    for theta, alpha, epsilon in ((0.7, 0.001, 0.01), (0.25, 0.5, 0.01), (1.0, 0.001, 1.0), (0.0, 2.0, 0.0)):
        logits = literal(alpha, epsilon)
        found = anprompt(theta=theta, alpha=alpha, epsilon=epsilon).logits(PIXELS)
        close(found, theta * logits.l_a + (1 - theta) * logits.l_r, 1e-4)


def test_partner_and_decision() -> None:
    logits = literal()
    close(anprompt(partner="prototype").logits(PIXELS), 0.7 * logits.l_a + 0.3 * logits.l_rep, 1e-4)
    method = anprompt(decision="alignment", decision_new="final")
    close(method.logits(PIXELS), logits.l_a, 1e-4)
    assert method.decision() == "ℓ_A; new classes: 0.7·ℓ_A + 0.3·ℓ_R"

    method = anprompt(decision_new="alignment")
    close(method.logits(PIXELS), 0.7 * logits.l_a + 0.3 * logits.l_r, 1e-4)
    close(method.with_classes(NAMES[:2]).logits(PIXELS), method.logits(PIXELS)[:, :2], 1e-4)
    mixed = method.with_classes([*NEW_NAMES, NAMES[0]])
    close(mixed.logits(PIXELS)[:, -1], method.logits(PIXELS)[:, 0], 1e-4)
    method.add_classes(NEW_NAMES[:1], BANK)
    close(method.with_classes(NEW_NAMES[:1]).logits(PIXELS), mixed.logits(PIXELS)[:, :1])  # added is not trained


# ---- texts


def test_noise_sources() -> None:
    """With α = 1 the noise sentence is half of ``f_w``, so the features tell which sentence was taken."""
    seen = {}
    for source in ("bank", "main", "drop", "mask", "shuffle", "synonym"):
        method = anprompt(noise_source=source, alpha=1.0)
        for row, name in enumerate(NAMES):
            drawn = method._draw(name)
            (main,), (noise,) = drawn.main, drawn.noise
            assert main in BANK.main[name]
            assert name in noise
            assert (noise in BANK.noise[name]) is (source == "bank")
            assert (noise in BANK.main[name]) is (source == "main" or (source == "synonym" and noise == main))
            assert noise != main or source == "synonym"  # not every sentence has a word with a known synonym
            close(f_w_of(method)[row], F.normalize(fused([main], [noise], 1.0), dim=-1)[0])
        seen[source] = f_w_of(method)
    for one, other in product(seen, repeat=2):
        assert one == other or not torch.allclose(seen[one], seen[other])


def test_another_main_sentence_and_the_mean_over_all_exclude_each_other() -> None:
    with pytest.raises(UserError, match="takes a main sentence other than the drawn one"):
        anprompt(noise_source="main", aggregate="mean")


def drawn_indices(*, epoch: int = 0, **options: Any) -> list[tuple[int, int]]:
    """Which main and which noise sentence each class got."""
    method = anprompt(**options)
    method.start_epoch(epoch)
    used = method.used_texts(NAMES)
    return [(BANK.main[n].index(used.main[n][0]), BANK.noise[n].index(used.noise[n][0])) for n in NAMES]


def test_draw_shared_takes_one_index_for_all_classes() -> None:
    shared = [set(drawn_indices(draw="shared", seed=seed)) for seed in range(6)]
    assert all(len(pairs) == 1 for pairs in shared)
    assert len(set.union(*shared)) > 1


def test_drawn_sentences_are_the_same_in_later_versions() -> None:
    """Written down, (main, noise) of each class: an adapter is trained on these, and its records do not name them."""
    drawn = [pair for seed in (1, 2) for pair in drawn_indices(seed=seed)]
    assert drawn[:6] == [(0, 2), (0, 1), (2, 0), (2, 1), (0, 2), (0, 2)]
    assert drawn[6:] == [(1, 0), (2, 2), (3, 0), (1, 0), (3, 0), (1, 1)]
    assert drawn_indices(resample="epoch", epoch=3) == [(1, 0), (1, 2), (2, 2), (3, 1), (1, 1), (3, 0)]


def test_aggregate_mean_uses_all_sentences() -> None:
    method, encode = anprompt(aggregate="mean", alpha=0.5), small_backbone().encode_text
    for row, name in enumerate(NAMES):
        f_m, f_n = (F.normalize(encode(side[name]).mean(dim=0), dim=0) for side in (BANK.main, BANK.noise))
        close(f_w_of(method)[row], F.normalize(f_m + 0.5 * f_n, dim=0))


def test_resample_draws_anew_each_epoch_and_keeps_p_w() -> None:
    method = anprompt(resample="epoch", alpha=0.5)
    f_w, p_w, logits = f_w_of(method), method.noise_prompts.clone(), method.logits(PIXELS)
    method.start_epoch(1)
    assert not torch.allclose(f_w_of(method), f_w)
    assert not torch.allclose(method.logits(PIXELS), logits), "kept class weights outlived a new draw"
    assert torch.equal(method.noise_prompts, p_w)
    assert int(method.state_dict()["drawn_epoch"]) == 1
    method.start_epoch(0)
    assert torch.equal(f_w_of(method), f_w)

    method.start_epoch(1)
    new = method.with_classes(NEW_NAMES).logits(PIXELS)
    method.bake()
    close(method.with_classes(NEW_NAMES).logits(PIXELS), new, 1e-2)  # the draw of the last epoch; tokens are fp16

    steady = anprompt(resample="run")
    before = f_w_of(steady)
    steady.start_epoch(1)
    assert f_w_of(steady) is before


def test_class_without_descriptions_uses_the_template() -> None:
    known = DescriptionBank({n: BANK.main[n] for n in NAMES[1:]}, {n: BANK.noise[n] for n in NAMES[1:]})
    method = anprompt(texts=known, alpha=0.5)
    drawn = method._draw("cat")
    assert not drawn.described
    assert drawn.main == ("a photo of a cat.",)
    assert drawn.noise[0] in [p.replace("{}", "cat") for p in PARAPHRASES]
    close(f_w_of(method)[0], F.normalize(fused(list(drawn.main), list(drawn.noise), 0.5), dim=-1)[0])


# ---- noise prompts


def test_p_w_are_the_k_means_centres() -> None:
    for k in (2, 5):
        method = anprompt(prompt_length=k, alpha=0.3)
        drawn = method.used_texts(NAMES)
        rows = fused([drawn.main[n][0] for n in NAMES], [drawn.noise[n][0] for n in NAMES], 0.3)
        expected = KMeans(k, n_init=10, random_state=0).fit(rows.double().numpy()).cluster_centers_
        close(method.noise_prompts, torch.tensor(expected).float())


def test_sentences_are_encoded_once_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[int] = []
    encode = Backbone.encode_text
    monkeypatch.setattr(Backbone, "encode_text", lambda own, texts: (encoded.append(len(texts)), encode(own, texts))[1])
    anprompt()
    assert encoded == [len(NAMES), len(NAMES)], "main and noise sentences serve f_w and P_w alike"


@pytest.mark.parametrize("text_noise", [True, False])
def test_fewer_classes_than_prompts_cluster_all_sentences(text_noise: bool) -> None:
    names = NAMES[:2]
    method = anprompt(names, prompt_length=5, alpha=0.3, text_noise=text_noise)
    pairs = [(m, BANK.noise[n][i % 3]) for n in names for i, m in enumerate(BANK.main[n])]
    pairs += [(BANK.main[n][i], s) for n in names for i, s in enumerate(BANK.noise[n]) if text_noise]
    pairs = sorted(set(pairs))  # each counts once
    rows = fused([m for m, _ in pairs], [n for _, n in pairs], 0.3 if text_noise else 0.0)
    nearest = torch.cdist(rows, method.noise_prompts).argmin(dim=1)
    assert set(nearest.tolist()) == set(range(5))
    for k in range(5):
        close(method.noise_prompts[k], rows[nearest == k].mean(dim=0))  # K-means has converged on just these rows


def test_few_sentences_are_combined_until_there_are_enough() -> None:
    texts = DescriptionBank({n: BANK.main[n][:2] for n in NAMES[:2]}, {n: BANK.noise[n][:2] for n in NAMES[:2]})
    method = anprompt(NAMES[:2], texts=texts, prompt_length=8, alpha=0.3)
    pairs = [pair for n in NAMES[:2] for pair in product(texts.main[n], texts.noise[n])]
    rows = fused([m for m, _ in pairs], [n for _, n in pairs], 0.3)
    assert torch.cdist(rows, method.noise_prompts).min(dim=1).values.max() < 1e-4, "8 pairs, 8 centres"


def test_too_few_sentences_for_the_noise_prompts() -> None:
    with pytest.raises(UserError, match=r"12 noise prompts need at least 12 classes or sentences, but there are 8"):
        anprompt(["cat"], texts=DescriptionBank({}, {}, "none"), prompt_length=12)


def test_recompute_noise_leaves_the_original_alone() -> None:
    method = anprompt(recompute_noise=True, epsilon=1.0)
    p_w, logits = method.noise_prompts.clone(), method.logits(PIXELS)
    view = method.with_classes([*NEW_NAMES, *NAMES])
    assert not torch.allclose(view.noise_prompts, p_w)
    assert torch.equal(method.noise_prompts, p_w)
    assert torch.equal(method.logits(PIXELS), logits)
    assert torch.equal(method.with_classes(NAMES[:2]).noise_prompts, p_w)  # classes of the training keep theirs

    keeping = anprompt(epsilon=1.0).with_classes([*NEW_NAMES, *NAMES])
    assert torch.equal(keeping.noise_prompts, p_w)
    assert not torch.allclose(keeping.logits(PIXELS), view.logits(PIXELS))


def test_noise_is_recomputed_alike_after_loading(tmp_path: Path) -> None:
    """Of fewer classes than K, P_w comes from all their sentences: the adapter keeps all of them."""
    method = anprompt(recompute_noise=True, epsilon=1.0, prompt_length=5)
    save_adapter(tmp_path / "adapter", method, {})
    loaded, _ = load_adapter(tmp_path / "adapter", method.backbone)
    new = NEW_NAMES[0]
    views: list[Any] = [
        each.with_classes([new, *NAMES[1:3]], each.bank.with_class(new, BANK.main[new])) for each in (method, loaded)
    ]
    close(views[1].noise_prompts, views[0].noise_prompts)
