"""Networks and batches for the contract of all methods."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from course_lib import models


class Small(nn.Module):
    """What methods stumble over, in a few channels: batch norm, a projection shortcut, an identity one, pooling, a flatten."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv1, self.norm1 = nn.Conv2d(8, 12, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(12)
        self.conv2, self.norm2 = nn.Conv2d(12, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)
        self.projection = nn.Conv2d(8, 12, 1, stride=2)
        self.conv3, self.conv4 = nn.Conv2d(12, 10, 3, padding=1), nn.Conv2d(10, 12, 1)
        self.fc1, self.fc2 = nn.Linear(12 * 9, 20), nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))) + self.projection(x))
        x = F.relu(x + self.conv4(F.relu(self.conv3(x))))
        return self.fc2(F.relu(self.fc1(F.max_pool2d(x, 2).flatten(1))))


BUILD = {"small": Small, "lenet-5-relu": lambda: models.build("lenet-5-relu"), "resnet-20": lambda: models.build("resnet-20")}
SHAPES = {"small": (3, 12, 12), "lenet-5-relu": (1, 28, 28), "resnet-20": (3, 32, 32)}


def network(name: str, seed: int = 0) -> nn.Module:
    """A network of `BUILD` in evaluation mode, whose batch norms do something."""
    torch.manual_seed(seed)
    model = BUILD[name]()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 2)
            module.bias.data.normal_(std=0.1)
    return model.eval()


def loader(name: str, images: int = 48, seed: int = 1) -> DataLoader:
    """Random images in batches of 16, with every label."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(images, *SHAPES[name], generator=random)
    return DataLoader(TensorDataset(x, torch.arange(images) % 10), batch_size=16)


def images_of(batches: DataLoader) -> Tensor:
    """All images of a loader."""
    return torch.cat([images for images, _ in batches])


def trainer(batches: DataLoader, optimizer=torch.optim.Adam, **settings):
    """A training loop as a user would write it, with an optimizer of its own."""
    settings = dict(lr=1e-3, weight_decay=1e-2) | settings

    def train(model: nn.Module) -> None:
        model.train()
        chosen = optimizer(model.parameters(), **settings)
        for images, labels in batches:
            chosen.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            chosen.step()

    return train
