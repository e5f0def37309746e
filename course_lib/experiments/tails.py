"""The rest of a network after one of its layers: what it reads is computed once, so that pruning that layer is soon judged."""

import torch
from torch import Tensor, nn

from course_lib.data import Split
from course_lib.surgery.readers import next_layer
from course_lib.training import evaluate

BATCH = 50  # images at a time: their feature maps stay in a cache


class Tail:
    """What comes after one layer of a chain of layers.

    Args:
        model: a chain of layers with names; it is left as it was.
        layer: one that a single layer reads, and that is pruned.
        split: what the accuracy is measured on.
    """

    @torch.no_grad()
    def __init__(self, model: nn.Sequential, layer: str, split: Split):
        reader, self.columns = next_layer(model, layer, split.images[:1])
        self.start = list(dict(model.named_children())).index(reader)
        read = torch.cat([model[: self.start](images) for images in split.images.split(BATCH)])
        self.read = Split(read.contiguous(memory_format=_layout(read)), split.labels)

    def accuracy(self, narrower: nn.Sequential, kept: Tensor) -> float:
        """Return the accuracy of a network in which the layer has only the channels `kept`; what comes after may have changed."""
        columns = self.columns[kept].flatten().to(self.read.images.device)
        images = self.read.images[:, columns].contiguous(memory_format=_layout(self.read.images))
        return evaluate(narrower[self.start :], Split(images, self.read.labels), BATCH)


def _layout(features: Tensor) -> torch.memory_format:
    """Channels last, in which convolutions are faster; vectors have no such thing."""
    return torch.channels_last if features.dim() == 4 else torch.contiguous_format
