"""The trained networks of the course: five of each kind on MNIST, three on CIFAR-10, each from its own random start.

Those that lie in data/checkpoints come with the course; the others are trained when they are first asked for, into
build/checkpoints.
"""

import hashlib
import json
import platform
from pathlib import Path

import torch
from torch import nn

from course_lib import data, training
from course_lib.files import ROOT, replacing
from course_lib.models.networks import build
from course_lib.streams import stream

CHECKPOINTS = ROOT / "data" / "checkpoints"  # committed
BUILT = ROOT / "build" / "checkpoints"
STATES = ROOT / "build" / "baselines"  # of trainings that are under way
# (network, data set) -> how it is trained; everything else is the default of `training.fit`
RECIPES: dict[tuple[str, str], dict] = {
    ("lenet-300-100", "mnist"): dict(epochs=30, lr=0.1, augment="shift"),
    ("lenet-5", "mnist"): dict(epochs=16, lr=0.05, augment="shift"),
    ("lenet-5-relu", "mnist"): dict(epochs=16, lr=0.05, augment="shift"),
    ("vgg-small", "cifar10"): dict(epochs=50, lr=0.1, augment="crop-flip"),
    ("resnet-20", "cifar10"): dict(epochs=60, lr=0.2, augment="crop-flip"),
    ("lenet-300-100", "mnist-5k"): dict(epochs=60, lr=0.05, augment="shift"),
    ("lenet-5", "mnist-5k"): dict(epochs=30, lr=0.05, augment="shift"),
    ("lenet-5-relu", "mnist-5k"): dict(epochs=30, lr=0.05, augment="shift"),
    ("vgg-small", "mnist-m"): dict(epochs=12, lr=0.1, augment="shift"),
    ("resnet-20", "mnist-m"): dict(epochs=12, lr=0.1, augment="shift"),
    ("vgg-16", "cifar10"): dict(epochs=50, lr=0.1, augment="crop-flip"),  # these two need a GPU, and none is committed
    ("resnet-56", "cifar10"): dict(epochs=60, lr=0.2, augment="crop-flip"),
}
COMMITTED = {pair: 3 if pair[1] == "cifar10" else 1 for pair in list(RECIPES)[:-2]}  # seeds 0 .. n - 1 of each


def pretrained(name: str, dataset: str, seed: int = 0, *, device: str | torch.device = "cpu") -> nn.Module:
    """Return a network with the weights that `python -m course_lib baselines` trains, in evaluation mode.

    Each seed is another network: other random weights to start with, images in another order, shifted by other amounts. None
    has been trained on the validation or the test images. One that did not come with the course is trained now, which takes
    about a minute on MNIST, and is kept in `build/`.

    Args:
        name: a network of `build`.
        dataset: what it was trained on, by the name that `data.load` reports: 'mnist', 'cifar10', 'mnist-5k', 'mnist-m'.
        seed: which of the networks, from 0 on.
        device: where the network is to lie; one that has to be trained first is trained there.

    Raises:
        FileNotFoundError: a committed checkpoint is missing, or there is no recipe for this network and data set; the message
            lists those that are there.
        ValueError: the file does not have the hash that its side file records, or a negative seed.
        RuntimeError: it has to be trained, and the data set is not at hand.
    """
    from filelock import FileLock
    from safetensors.torch import load_file

    with torch.random.fork_rng(devices=[]):  # the weights drawn here are replaced
        model = build(name)
    path = _file(name, dataset, seed)
    if path.is_relative_to(BUILT) and not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):  # experiments run side by side
            if not path.is_file():
                train(name, dataset, seed=seed, device=str(device))
    if not path.is_file():
        there = ", ".join(sorted(p.name.removesuffix(".safetensors") for p in CHECKPOINTS.glob("*.safetensors")))
        raise FileNotFoundError(
            f"no checkpoint for network {name!r} on data set {dataset!r}; there are: {there or 'none'}. "
            "`python -m course_lib baselines` trains them"
        )
    about = checkpoint_facts(name, dataset, seed)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != about["sha256"]:
        raise ValueError(
            f"{path} is damaged: SHA-256 {found[:12]}…, expected {about['sha256'][:12]}…. `git checkout -- data/checkpoints` "
            f"restores it, `python -m course_lib baselines {name} --dataset {dataset} --seed {seed}` trains it again"
        )
    model.load_state_dict(load_file(path))
    return model.to(device).eval()


def checkpoint_facts(name: str, dataset: str, seed: int = 0) -> dict:
    """Return the side file of a checkpoint: accuracies, data set, seed, epochs, command, versions, sha256."""
    return json.loads(_file(name, dataset, seed).with_suffix(".json").read_text(encoding="utf-8"))


def train(name: str, dataset: str, *, seed: int = 0, device: str = "cpu") -> dict:
    """Train a network by its recipe, write it where `pretrained` looks for it, and return the facts of its side file.

    A run that was cut off goes on where it was: its state lies in `build/baselines` until it is done.

    Raises:
        RuntimeError: the data set is not at hand.
    """
    recipe = RECIPES[name, dataset]
    splits = data.load(dataset, device=device)
    if splits.is_stand_in:
        raise RuntimeError(f"a checkpoint for {dataset} must not be trained on the stand-in {splits.name} ({splits.why})")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream(seed, "initial weights"))
        model = build(name).to(device)
    state = STATES / f"{name}.{dataset}.{seed}.pt"
    history = training.fit(model, splits, seed=stream(seed, "training"), resume_from=state, **recipe)
    facts = dict(
        network=name, dataset=splits.name, seed=seed, accuracy=training.evaluate(model, splits.test),
        validation_accuracy=training.evaluate(model, splits.validation), **recipe, examples=len(splits.train.labels),
        precision=history.precision, seconds=round(sum(row["seconds"] for row in history.epochs)), device=device,
        command=f"python -m course_lib baselines {name} --dataset {dataset} --seed {seed}",
        versions=dict(python=platform.python_version(), torch=torch.__version__),
    )  # fmt: skip
    save_checkpoint(model, name, dataset, facts, seed)
    state.unlink()
    return facts


def save_checkpoint(model: nn.Module, name: str, dataset: str, facts: dict, seed: int = 0) -> Path:
    """Write weights and side file for `pretrained`; `facts` is what the side file tells besides the hash. Return the path."""
    from safetensors.torch import save_file

    path = _file(name, dataset, seed)
    with replacing(path) as scratch:
        save_file({key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}, scratch)
    facts = facts | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    with replacing(path.with_suffix(".json")) as scratch:
        scratch.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return path


def _file(name: str, dataset: str, seed: int) -> Path:
    if seed < 0:
        raise ValueError(f"seed is {seed}; allowed are 0 and above")
    committed = (name, dataset) not in RECIPES or seed < COMMITTED.get((name, dataset), 0)
    return (CHECKPOINTS if committed else BUILT) / f"{name}.{dataset}{f'.seed-{seed}' if seed else ''}.safetensors"
