"""What notebook 07 shows beside its cells: sizes of VGG-16 with each head."""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import nn

from course_lib import cost

# ImageNet: parameters in millions and FLOPs in billions, a MAC counting as 2
PAPER_SIZES = {
    "VGG-16": (138.34, 30.94),
    "ThiNet-Conv": (131.44, 9.58),
    "ThiNet-GAP": (8.32, 9.34),
}
VGG_16 = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
THIN = (*(width // 2 for width in VGG_16[:10]), *VGG_16[10:])  # conv1_1 to conv4_3 at half their width


def imagenet_vgg_16(widths: Sequence[int], head: str) -> nn.Module:
    """VGG-16 for 224 x 224 pixels and 1,000 classes, without storage: on the meta device a tensor is only its shape.

    Args:
        widths: of the 13 convolutions.
        head: 'dense', 4096-4096-1000 as published, or 'GAP', the mean over positions and one dense layer.
    """
    layers: list[nn.Module] = []
    with torch.device("meta"):
        for number, (inputs, outputs) in enumerate(zip((3, *widths), widths, strict=False)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if number in (1, 3, 6, 9, 12) else []
        if head == "GAP":
            layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 1000)]
        else:
            layers += [nn.Flatten(), nn.Linear(49 * widths[-1], 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU()]
            layers += [nn.Linear(4096, 1000)]
        return nn.Sequential(*layers)


def head_sizes() -> pd.DataFrame:
    """Parameters (millions) and FLOPs (billions, 2 a MAC) of VGG-16 with dense and with GAP head, whole and thin, from shapes."""
    networks = {
        "VGG-16": (VGG_16, "dense"),
        "VGG-GAP": (VGG_16, "GAP"),
        "ThiNet-Conv": (THIN, "dense"),
        "ThiNet-GAP": (THIN, "GAP"),
    }
    rows = []
    for name, (widths, head) in networks.items():
        model = imagenet_vgg_16(widths, head)
        macs = cost.count(model, torch.empty(1, 3, 224, 224, device="meta")).MACs.sum()
        dense = sum(p.numel() for layer in model if isinstance(layer, nn.Linear) for p in layer.parameters())
        total = sum(p.numel() for p in model.parameters())
        figures = dict(parameters=total / 1e6, dense=dense / 1e6, FLOPs=2 * macs / 1e9)
        rows.append(dict(network=name, **figures))
    return pd.DataFrame(rows).set_index("network")
