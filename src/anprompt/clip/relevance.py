"""Which parts of a picture a score rests on: Grad-CAM on the tokens that the last vision block attends to.

Selvaraju et al.: Grad-CAM: Visual explanations from deep networks via gradient-based localization, ICCV 2017.
https://arxiv.org/abs/1610.02391
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from anprompt.clip.backbone import Backbone
from anprompt.clip.kernels import mlp
from anprompt.clip.plan import PromptPlan
from anprompt.clip.sentences import NO_PROMPTS


def relevance(
    backbone: Backbone, pixels: Tensor, score: Callable[[Tensor], Tensor], plan: PromptPlan = NO_PROMPTS
) -> Tensor:
    """Map ``(B, h, w)`` of the patches' relevance, not negative, for normalised pixels ``(B, 3, H, W)``.

    score: from class-token features ``(B, C)``, not normalised, to one number. With the normed tokens ``a`` that come
    into the last block: ``relu(Σ_d α_d a_d)``, α the mean over the patches of the score's gradient. Costs one pass
    without gradients; only the last block, and there only the class token, is differentiated.
    """
    tower, patches = backbone.vision, backbone.config.patches
    depth, first = tower.depth, min(plan.first_block or tower.depth, tower.depth)
    with torch.no_grad():
        x = backbone.trunk(pixels, first)
        x = tower.run(x, first, depth - 1, plan)
        for write in plan.before(depth):
            x = write.apply(x)
        where = plan.shifted(torch.arange(1, 1 + patches, device=x.device))  # (M,)
    block, d = tower.block(depth), tower.width
    weight = block.qkv.weight
    with torch.enable_grad():
        tokens = block.ln_1(x).to(weight.dtype).requires_grad_()  # (B, L, D)
        q = F.linear(tokens[:, :1], weight[:d], block.qkv.bias[:d])  # (B, 1, D)
        k, v = F.linear(tokens, weight[d:], block.qkv.bias[d:]).chunk(2, dim=-1)  # (B, L, D) each
        q, k, v = (t.reshape(len(x), -1, block.heads, d // block.heads).transpose(1, 2) for t in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # (B, 1, D)
        cls = x[:, 0] + block.out(attended)[:, 0]  # (B, D)
        cls = plan.adapt(depth, cls + mlp(block.ln_2(cls), block.fc, block.proj, block.activation))
        (gradient,) = torch.autograd.grad(score(tower.read(cls)), tokens)
    alpha = gradient[:, where].float().mean(dim=1, keepdim=True)  # (B, 1, D)
    side = backbone.config.image_size // backbone.config.patch_size
    cam: Tensor = (alpha * tokens[:, where].detach().float()).sum(dim=-1).relu()  # (B, M)
    return cam.view(-1, side, side)
