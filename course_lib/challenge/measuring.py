"""How many digits a network reads wrongly: of MNIST's test set, and of warped copies that nobody could choose by."""

from dataclasses import dataclass

import torch
from torch import nn

from course_lib import data, models
from course_lib.challenge.entry import Entry
from course_lib.data import Split, batched
from course_lib.data.warping import warped


@dataclass(frozen=True)
class Digits:
    """The digits that count, and the name of their data set."""

    test: Split
    warped: Split
    name: str

    @property
    def about(self) -> str:
        """What they are, in a sentence where it matters."""
        if self.name == "mnist":
            return ""
        return f"These are {len(self.test.labels):,} digits of the stand-in {self.name}: no figure here counts."


def digits(seed: int) -> Digits:
    """Return MNIST's test digits, and copies of them warped by maps that `seed` chooses; a stand-in at smoke scale."""
    splits = data.load("mnist")
    return Digits(splits.test, Split(warped(splits.test.images, seed), splits.test.labels), splits.name)


def network(entry: Entry) -> nn.Module:
    """Return the network as the course runs it, in evaluation mode, with the widths and numbers of an entry."""
    with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced
        model = models.build(entry.network)
        for name, layer in list(model.named_children()):
            if hasattr(layer, "weight"):
                outputs, inputs, *kernel = entry.tensors[f"{name}.weight"].shape
                setattr(model, name, type(layer)(inputs, outputs, *kernel[:1]))
    model.load_state_dict({name: torch.from_numpy(tensor) for name, tensor in entry.tensors.items()})
    return model.eval()


def wrong(model: nn.Module, split: Split) -> int:
    """Return how many images a network reads wrongly; one whose scores are not all finite counts as such."""
    missed = 0
    with torch.inference_mode():
        for images, labels in batched(split, 250):
            scores = model(images)
            missed += int(((scores.argmax(1) != labels) | ~scores.isfinite().all(1)).sum())
    return missed
