"""The trained networks that every notebook starts from."""

import platform
from pathlib import Path

import torch

from course_lib import data, models, training

# (network, data set) -> how it is trained; everything else is `fit`'s default
RECIPES: dict[tuple[str, str], dict] = {
    ("lenet-300-100", "mnist"): dict(epochs=30, lr=0.1, augment="shift"),
    ("lenet-5", "mnist"): dict(epochs=15, lr=0.05, augment="shift"),
    ("lenet-5-relu", "mnist"): dict(epochs=15, lr=0.05, augment="shift"),
    ("vgg-small", "cifar10"): dict(epochs=40, lr=0.1, augment="crop-flip"),
    ("resnet-20", "cifar10"): dict(epochs=50, lr=0.2, augment="crop-flip"),
    ("lenet-300-100", "mnist-5k"): dict(epochs=60, lr=0.05, augment="shift"),
    ("lenet-5", "mnist-5k"): dict(epochs=30, lr=0.05, augment="shift"),
    ("lenet-5-relu", "mnist-5k"): dict(epochs=30, lr=0.05, augment="shift"),
    ("vgg-small", "mnist-m"): dict(epochs=12, lr=0.1, augment="shift"),
    ("resnet-20", "mnist-m"): dict(epochs=12, lr=0.1, augment="shift"),
}


def train(
    network: str, dataset: str, *, seed: int = 0, device: str = "cpu", precision: str = "float32", folder: Path | None = None
) -> dict:
    """Trains one baseline and writes it to data/checkpoints; gives the facts of its side file.

    A run that was cut off goes on where it was: its state lies in `folder` (default `build/baselines`) until it is done.
    """
    recipe = RECIPES[network, dataset]
    splits = data.load(dataset, device=device)
    if splits.is_stand_in:
        raise RuntimeError(f"a checkpoint for {dataset} must not be trained on the stand-in {splits.name} ({splits.why})")
    torch.manual_seed(seed)
    model = models.build(network).to(device)
    state = (folder or Path("build/baselines")) / f"{network}.{dataset}.pt"
    history = training.fit(model, splits, seed=seed, precision=getattr(torch, precision), resume_from=state, **recipe)
    facts = dict(
        network=network, dataset=splits.name, accuracy=training.evaluate(model, splits.test), seed=seed, **recipe,
        precision=precision, seconds=round(sum(row["seconds"] for row in history.epochs)), device=device,
        command=f"python -m course_lib baselines {network} --dataset {dataset} --seed {seed} --precision {precision}",
        versions=dict(python=platform.python_version(), torch=torch.__version__),
    )  # fmt: skip
    models.save_checkpoint(model, network, dataset, facts)
    state.unlink()
    return facts
