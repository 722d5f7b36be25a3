"""Augmented batches of photos in an order that depends on the seed only, made while the device computes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from anprompt.clip import ImageTransform
from anprompt.clip.transfer import pinned, sent
from anprompt.training.images import TrainingImages
from anprompt.training.recipe import Recipe

T = TypeVar("T")
ON_HOST = ("chance", "host_labels")  # numbers that steps read: from the device, they would have to be waited for


def generator_for(*parts: object) -> torch.Generator:
    """A generator that depends on ``parts`` only, e.g. (seed, epoch, step): any step can be repeated on its own, so a
    resumed run draws exactly what the uninterrupted one drew."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def epoch_order(n: int, batch: int, seed: int, epoch: int) -> list[Tensor]:
    """Index batches of one epoch; an incomplete last batch is left out, unless it is the only one."""
    order = torch.randperm(n, generator=generator_for(seed, epoch, "order"))
    batches = list(torch.split(order, batch))
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) < batch else batches


def steps_in_epoch(n: int, batch: int) -> int:
    """How many batches :func:`epoch_order` gives."""
    return max(1, n // batch)


def one_ahead(make: Callable[[int], T], numbers: Iterable[int]) -> Iterator[T]:
    """Yield ``make(number)`` in order; the next one is made in a thread of its own while the last one is used."""
    waiting: Future[T] | None = None
    with ThreadPoolExecutor(max_workers=1) as pool:
        for number in numbers:
            following = pool.submit(make, number)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()


def prefetches(device: torch.device) -> bool:
    """Whether batches are made one ahead. Not on a CPU: the thread would only take its cores from the step."""
    return device.type != "cpu"


def augmented_batches(
    data: TrainingImages, transform: ImageTransform, recipe: Recipe, device: torch.device,
    *, seed: int, epoch: int, first: int = 0, views: int = 0, chance: bool = False, plain: Tensor | None = None,
) -> Iterator[tuple[int, dict[str, Tensor]]]:  # fmt: skip
    """Yield (step, batch) for the steps of ``epoch`` from ``first`` on.

    A batch has ``"pixels"``, ``(B, 3, H, W)``, and ``"labels"``, ``(B,)``, on ``device``; if that is not the CPU, also
    ``"host_labels"``, the labels on the CPU. With ``views`` it has ``"views"``, ``(V, B, 3, H, W)``, so many further
    augmentations of the same photos; with ``chance``, ``"chance"``, one number in [0, 1) for the step, on the CPU; with
    ``plain``, rows ``(n, ·)`` for all photos, ``"plain"``, those of its photos.
    """
    order = epoch_order(len(data), recipe.batch, seed, epoch)

    def augmented(images: list[Tensor], *drawn_by: object) -> Tensor:
        generator = generator_for(seed, epoch, *drawn_by)
        if recipe.augment == "randaugment":
            return transform.rand_augmented(images, generator)
        return transform.random_resized_crop(images, generator, scale=(recipe.crop_scale, 1.0), flip=recipe.flip)

    def make(step: int) -> dict[str, Tensor]:
        chosen = order[step]
        images = [data.images[i] for i in chosen.tolist()]
        batch = {"pixels": augmented(images, step), "labels": data.labels[chosen]}  # (B, 3, H, W), (B,)
        if device.type != "cpu":
            batch["host_labels"] = batch["labels"]
        if views:
            batch["views"] = torch.stack([augmented(images, step, "view", view) for view in range(views)])
        if chance:
            batch["chance"] = torch.rand((), generator=generator_for(seed, epoch, step, "chance"))
        if plain is not None:
            batch["plain"] = plain[chosen]
        return {name: tensor if name in ON_HOST else pinned(tensor, device) for name, tensor in batch.items()}

    steps = range(first, len(order))
    made = one_ahead(make, steps) if prefetches(device) else map(make, steps)
    for step, batch in zip(steps, made, strict=True):
        yield step, {name: tensor if name in ON_HOST else sent(tensor, device) for name, tensor in batch.items()}
