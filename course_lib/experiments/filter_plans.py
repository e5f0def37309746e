"""What notebook 04 compares: the table of Li et al. 2017, and plans, the share of the filters of each layer that stays."""

# Table 1: error in percent, and how much less of MACs and parameters, in percent
PAPER = {
    ("vgg-16", "baseline"): (6.75, 0, 0), ("vgg-16", "A"): (6.60, 34.2, 64.0), ("vgg-16", "A scratch"): (6.88, 34.2, 64.0),
    ("resnet-56", "baseline"): (6.96, 0, 0), ("resnet-56", "A"): (6.90, 10.4, 9.4), ("resnet-56", "B"): (6.94, 27.6, 13.7),
    ("resnet-56", "B scratch"): (8.69, 27.6, 13.7),
}  # fmt: skip


def first_layers(blocks: int, keep: tuple[float, float, float], skip: tuple[int, ...]) -> dict[str, float]:
    """Return a plan for the CIFAR ResNet of 3 stages: which share of the first layer of its blocks stays, by stage.

    Layers are numbered as in the paper, where conv1 is 1, so that the first layer of a block has an even number; `skip` are those
    that are left whole.
    """
    names = [f"stage{stage}.{block}.conv1" for stage in (1, 2, 3) for block in range(blocks)]
    plan = {2 * (i + 1): (name, keep[i // blocks]) for i, name in enumerate(names)}
    return {name: share for number, (name, share) in plan.items() if number not in skip}


# network -> plan -> layer -> the share of its filters that stay
PLANS: dict[str, dict[str, dict[str, float]]] = {
    "vgg-16": {"A": {f"conv{i}": 0.5 for i in (1, *range(8, 14))}},
    "resnet-56": {
        "A": first_layers(9, (0.9, 0.9, 0.9), (16, 20, 38, 54)),
        "B": first_layers(9, (0.4, 0.7, 0.9), (16, 18, 20, 34, 38, 54)),
    },
    # A: half of the first and of the last layers stay, as in VGG-16-A. B: about as many MACs, by sensitivity
    "vgg-small": {
        "A": dict(conv1=0.5, conv5=0.5, conv6=0.5),
        "B": dict(conv1=0.6, conv3=0.9, conv4=0.9, conv5=0.9, conv6=0.4),
    },
    # by sensitivity: most is removed from the middle stage
    "resnet-20": {
        "A": first_layers(3, (0.9, 0.9, 0.9), ()),
        "B": dict(zip(first_layers(3, (1, 1, 1), ()), (0.7, 0.8, 0.9, 0.7, 0.4, 0.4, 0.9, 0.5, 0.8), strict=True)),
    },
}
