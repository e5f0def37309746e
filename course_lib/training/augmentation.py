"""Random changes to a batch of images that lies on the device already."""

import torch
import torch.nn.functional as F
from torch import Tensor

KINDS = ("shift", "crop-flip")


def augmented(images: Tensor, kind: str | None, random: torch.Generator) -> Tensor:
    """A batch (N, C, height, width), randomly shifted ('shift') or shifted and mirrored ('crop-flip'); None gives it back."""
    if kind is None:
        return images
    if kind == "crop-flip":
        mirror = torch.rand(len(images), generator=random, device=images.device) < 0.5
        images = torch.where(mirror[:, None, None, None], images.flip(3), images)
    return _shifted(images, 2 if kind == "shift" else 4, random)


def _shifted(images: Tensor, pixels: int, random: torch.Generator) -> Tensor:
    """Every image moved by up to `pixels` in both directions; what comes in at the border is its mirror image."""
    count, _, height, width = images.shape
    places = F.pad(images, [pixels] * 4, mode="reflect").unfold(2, height, 1).unfold(3, width, 1)
    # places: a view (N, C, 2 pixels + 1, 2 pixels + 1, height, width) of all shifts; one is taken per image
    down, right = torch.randint(2 * pixels + 1, (2, count), generator=random, device=images.device)
    return places[torch.arange(count, device=images.device), :, down, right]
