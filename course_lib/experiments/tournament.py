"""The tournament of notebook 08: a narrower network is handed in as its tensors; its accuracy after a short training counts."""

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from course_lib import cost, models, surgery, training
from course_lib.data import Splits

NETWORK = "vgg-small"
SHARE = 0.25  # of the MACs, at most
IMAGES, EPOCHS, LR = 500, 3, 0.01  # of the training that every entry gets


def rebuilt(state: Mapping[str, Tensor]) -> nn.Module:
    """Return the narrower vgg-small whose state dict is given; layers may have biases that the original has not."""
    layers = [name.removesuffix(".weight") for name in state if name.startswith("conv") and name.endswith(".weight")]
    widths = {layer: range(len(state[f"{layer}.weight"])) for layer in layers}
    model = surgery.narrow(models.build(NETWORK), widths, models.example_input(NETWORK))
    for layer in layers:
        if f"{layer}.bias" in state:
            model.get_submodule(layer).bias = nn.Parameter(torch.zeros(len(state[f"{layer}.weight"])))
    model.load_state_dict(dict(state))
    return model.eval()


def share_of_macs(state: Mapping[str, Tensor]) -> float:
    """Return the MACs of the network whose state dict is given, as a share of the whole network's."""
    image = models.example_input(NETWORK)
    narrow, whole = (cost.count(model, image).MACs.sum() for model in (rebuilt(state), models.build(NETWORK)))
    return narrow / whole


def score(state: Mapping[str, Tensor], splits: Splits) -> float:
    """Return the test accuracy (%) of a narrower vgg-small after three epochs on 500 training images.

    Raises:
        ValueError: it has more than a quarter of the MACs.
    """
    if (share := share_of_macs(state)) > SHARE:
        raise ValueError(f"it has {share:.1%} of the MACs; allowed are {SHARE:.0%}")
    model = rebuilt(state).to(splits.test.images.device)
    few = dataclasses.replace(splits, train=splits.train.take(IMAGES, 0))
    training.fit(model, few, epochs=EPOCHS, lr=LR, progress=False)
    return 100 * training.evaluate(model, splits.test)
