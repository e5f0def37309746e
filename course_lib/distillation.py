"""Distillation: a small network learns from the logits of large ones (Hinton et al. 2015), on images and warped copies."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.data import Split
from course_lib.data.warping import warped
from course_lib.streams import stream

TEMPERATURE = 3.0  # of the teachers' probabilities
BATCH = 128


class Examples(NamedTuple):
    """Images, slightly warped copies of them, and the teachers' logits for each."""

    images: Tensor  # (1 + copies, n, 1, 28, 28), the originals first
    logits: Tensor  # (1 + copies, n, 10), the mean over the teachers
    labels: Tensor  # (n,)


def examples(teachers: Sequence[nn.Module], split: Split, copies: int, seed: int) -> Examples:
    """Return a split's images with `copies` warped copies of each, and the teachers' mean logits for all of them."""
    images = with_copies(split, copies, seed)
    return Examples(images, torch.stack([logits_of(teacher, images) for teacher in teachers]).mean(0), split.labels)


def with_copies(split: Split, copies: int, seed: int) -> Tensor:
    """Return the images of a split and `copies` warped copies of each, (1 + copies, n, 1, 28, 28), the originals first."""
    return torch.stack([split.images, *(warped(split.images, stream(seed, "warped", copy)) for copy in range(copies))])


@torch.no_grad()
def logits_of(teacher: nn.Module, images: Tensor) -> Tensor:
    """Return a network's logits for images (copies, n, ...), of shape (copies, n, 10)."""
    teacher = copy.deepcopy(teacher).to(memory_format=torch.channels_last)  # three times as fast, like batches that fit a cache
    return torch.cat([teacher(part) for part in images.flatten(0, 1).split(250)]).unflatten(0, images.shape[:2])


def distil(
    model: nn.Module, given: Examples, *, epochs: float, seed: int, lr: float = 3e-3, hook: Callable | None = None
) -> None:
    """Train a network in place to match its teachers' logits, by Adam, with one cycle of the learning rate.

    Args:
        model: the network.
        given: images and the teachers' logits for them.
        epochs: passes over the images; in each of them half of the images are replaced by warped copies.
        seed: of the order of the images and the choice of copies.
        lr: peak of the learning rate.
        hook: called after each step with the optimizer and the progress in (0, 1].
    """
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    count = max(1, round(epochs * len(given.labels) / BATCH))
    model.train().to(memory_format=torch.channels_last)  # convolutions with few channels take a quarter less time
    for step, batch in enumerate(batches(given, count, seed)):
        optimizer.param_groups[0]["lr"] = lr * min((step + 1) / (0.2 * count), (count - step) / (0.8 * count))
        optimizer.zero_grad()
        loss(model, *batch).backward()
        optimizer.step()
        if hook is not None:
            hook(optimizer, (step + 1) / count)
    model.eval().to(memory_format=torch.contiguous_format)


def loss(model: nn.Module, images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Return 0.9 T^2 times the divergence from the teachers' probabilities at temperature T, and 0.1 times the cross-entropy."""
    scores = model(images)
    wanted, found = (logits / TEMPERATURE).softmax(1), (scores / TEMPERATURE).log_softmax(1)
    divergence = F.kl_div(found, wanted, reduction="batchmean")
    return 0.9 * TEMPERATURE**2 * divergence + 0.1 * F.cross_entropy(scores, labels)


def batches(given: Examples, count: int, seed: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield `count` batches of images, logits and labels; each pass has every image once, half of them as warped copies."""
    random = torch.Generator().manual_seed(stream(seed, "order"))
    copies, images = given.logits.shape[:2]
    order = torch.cat([torch.randperm(images, generator=random) for _ in range(math.ceil(count * BATCH / images))])
    for chosen in order[: count * BATCH].split(BATCH):
        which = torch.randint(1, max(2, copies), (len(chosen),), generator=random) % copies
        which *= torch.rand(len(chosen), generator=random) < 0.5
        yield given.images[which, chosen], given.logits[which, chosen], given.labels[chosen]
