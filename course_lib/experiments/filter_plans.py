"""What notebook 04 compares: the tables of Li et al. 2017, and plans, the share of the filters of each layer that stays."""

from typing import NamedTuple


class Published(NamedTuple):
    """A line of the paper's tables: top-1 error in percent, the best on the test set during retraining."""

    dense: float
    pruned: float
    scratch: float | None  # of the same shape, trained from random weights
    fewer_macs: float  # in percent


PAPER = {
    ("VGG-16", "A"): Published(6.75, 6.60, 6.88, 34.2),
    ("ResNet-56", "A"): Published(6.96, 6.90, None, 10.4),
    ("ResNet-56", "B"): Published(6.96, 6.94, 8.69, 27.6),
    ("ResNet-110", "A"): Published(6.47, 6.45, None, 15.9),
    ("ResNet-110", "B"): Published(6.47, 6.70, 7.06, 38.6),
    ("ResNet-34, ImageNet", "A"): Published(26.77, 27.44, None, 15.5),
    ("ResNet-34, ImageNet", "B"): Published(26.77, 27.83, None, 24.2),
}
LIKE = {"vgg-small": "VGG-16", "vgg-16": "VGG-16", "resnet-20": "ResNet-56", "resnet-56": "ResNet-56"}  # ours -> the paper's


def first_layers(blocks: int, keep: tuple[float, float, float], skip: tuple[int, ...] = ()) -> dict[str, float]:
    """Return a plan for the CIFAR ResNet of 3 stages: which share of the first layer of its blocks stays, by stage.

    Layers are numbered as in the paper, where conv1 is 1, so that the first layer of a block has an even number; `skip` are those
    that are left whole.
    """
    names = [f"stage{stage}.{block}.conv1" for stage in (1, 2, 3) for block in range(blocks)]
    plan = {2 * (i + 1): (name, keep[i // blocks]) for i, name in enumerate(names)}
    return {name: share for number, (name, share) in plan.items() if number not in skip}


# network -> plan -> layer -> the share of its filters that stay. Those of the small networks follow the paper's: half of the
# first and of the last layers of the VGG, one rate for each stage of the ResNet, where the numbers of the layers that the paper
# skips fit its depth only
PLANS: dict[str, dict[str, dict[str, float]]] = {
    "vgg-16": {"A": {f"conv{i}": 0.5 for i in (1, *range(8, 14))}},
    "resnet-56": {
        "A": first_layers(9, (0.9, 0.9, 0.9), (16, 20, 38, 54)),
        "B": first_layers(9, (0.4, 0.7, 0.9), (16, 18, 20, 34, 38, 54)),
    },
    "vgg-small": {"A": dict(conv1=0.5, conv5=0.5, conv6=0.5)},
    "resnet-20": {"A": first_layers(3, (0.9, 0.9, 0.9)), "B": first_layers(3, (0.4, 0.7, 0.9))},
}
