"""Images turned, scaled, sheared and shifted a little, each by another affine map."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.streams import stream

DEGREES, SCALE, SHEAR, PIXELS = 11.0, 0.09, 0.15, 0.6  # the most, in either direction


def warped(images: Tensor, seed: int) -> Tensor:
    """Return each image under an affine map of its own, the same ones in every call with this seed.

    Every map turns by up to 11 degrees, scales by up to 9 %, shears by up to 0.15 and shifts by up to 0.6 pixels each way, all
    drawn uniformly and independently. Between pixels it is interpolated bilinearly; what comes in at the border is background.

    Args:
        images: (N, C, height, width) floats, normalised or not, whose lowest value is the background.
        seed: 0 and above.
    """
    draw = torch.rand(5, len(images), generator=torch.Generator().manual_seed(stream(seed, "warped images")))
    angle, scale, shear, down, right = (2 * draw - 1).to(images)
    angle, scale, shear = angle * math.radians(DEGREES), 1 / (1 + scale * SCALE), shear * SHEAR
    cosine, sine = angle.cos(), angle.sin()
    shift = [2 * PIXELS * part / size for part, size in ((right, images.shape[3]), (down, images.shape[2]))]
    # From places in the new image to places in the old one: rotation times [[1, shear], [0, 1]] times one over the scale
    maps = torch.stack(
        [
            torch.stack([scale * cosine, scale * (cosine * shear - sine), shift[0]], 1),
            torch.stack([scale * sine, scale * (sine * shear + cosine), shift[1]], 1),
        ],
        1,
    )  # (N, 2, 3)
    background = images.min()
    pieces = zip((images - background).split(1000), maps.split(1000), strict=True)  # the grid of all would take 125 MB
    moved = [F.grid_sample(part, F.affine_grid(some, list(part.shape), False), align_corners=False) for part, some in pieces]
    return torch.cat(moved) + background
