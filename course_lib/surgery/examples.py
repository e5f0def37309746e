"""An input to trace a network with: the first image of the batches, or, without any, an image that its layers accept."""

import torch
from torch import Tensor, nn

from course_lib.data import Batches, example
from course_lib.modes import evaluating
from course_lib.surgery.wiring import CUTTABLE

SIDES = (28, 32, 64, 224, 299, *range(8, 129, 4))  # of images that are tried, in pixels: those of the usual data sets first


def first_image(model: nn.Module, batches: Batches | None) -> Tensor:
    """Return the first image of `batches` as a batch (1, ...) on the model's device; without batches, `example_input(model)`.

    Raises:
        ValueError: batches without images; or there are none, and the model accepts no image of `SIDES`.
    """
    if batches is None:
        return example_input(model)
    return example(batches).to(next(model.parameters()).device)


@torch.no_grad()
def example_input(model: nn.Module) -> Tensor:
    """Return an image (1, C, side, side) of zeros that the model accepts, to trace it with; its size does not change a plan.

    Raises:
        ValueError: the model accepts no image of `SIDES`.
    """
    first = next((module for module in model.modules() if isinstance(module, CUTTABLE)), None)
    weight = first.weight if first is not None else torch.empty(0)
    channels = getattr(first, "in_channels", 1)
    with evaluating(model):
        for side in SIDES:
            image = torch.zeros(1, channels, side, side, dtype=weight.dtype, device=weight.device)
            try:
                model(image)
            except Exception:  # whatever this network raises at an image of another size
                continue
            return image
    raise ValueError(f"the model takes no image of {channels} channels and {', '.join(map(str, SIDES))} pixels; give it an input")
