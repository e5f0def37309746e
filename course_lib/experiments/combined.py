"""The runs behind the end of notebook 08: methods one after the other, and files that users have at hand.

A setting's 'kind' says which question it answers: 'stack' how far trimming and then Deep Compression get on LeNet-5, against
Deep Compression alone; 'files' what int8 of ONNX Runtime, xz and shared weights make of a trained network, whole or narrowed;
'lr' at which rate the stack is retrained. A seed is an independently trained network.
"""

from collections.abc import Callable, Mapping
from typing import Any

from course_lib import data, models, training
from course_lib.data import Splits
from course_lib.experiments import at_hand, stack
from course_lib.experiments.combined_tables import headline, paper_table
from course_lib.experiments.comparison import LENET, LR, RESNET, VGG
from course_lib.experiments.one_shot import APOZ, L1, RANDOM

__all__ = ["budget", "grid", "headline", "paper_table", "run"]

# How the stack begins: criterion of the trimming, and how many times smaller the network's plain file becomes by it
STARTS = ((stack.WHOLE, 1), (APOZ, 4))
MORE_STARTS = ((APOZ, 2), (APOZ, 16), (RANDOM, 4))  # at paper scale
RATES = (0.1, 0.03, 0.01, 0.003)  # to choose the stack's learning rate from
NETWORKS = {LENET: dict(counted="bytes", rate=4, seeds=5), VGG: dict(counted="MACs", rate=2, seeds=3)}
NETWORKS |= {RESNET: dict(counted="MACs", rate=2, seeds=3)}


def budget(scale: str) -> dict[str, Any]:
    """Return how much work each kind of run does at a scale.

    Of the stack, 'trimming' are the epochs after the cut, 'pruning' those after each step, 'centroids' the last ones; 'fewer'
    are its steps and 'bits' those of its codes. A narrowed network of kind 'files' has 'retraining' epochs, which on CIFAR-10
    are too few at lesson scale: there the rows say what a file costs, not what narrowing costs. At paper scale, which needs a
    GPU, they are those of the comparison. 'images' choose the neurons, 'calibration' measure the ranges of activations.
    """
    steps = dict(fewer=stack.FEWER, bits=stack.CODE_BITS, images=5_000, calibration=500)
    return {
        "smoke": dict(trimming=1, pruning=1, centroids=1, retraining=1, fewer=(10,), bits=(4,), images=200, calibration=50),
        "lesson": dict(trimming=4, pruning=2, centroids=1, retraining=2) | steps,
        "paper": dict(trimming=20, pruning=10, centroids=5, retraining=20) | steps,
    }[scale]


def grid(scale: str) -> list[dict]:
    """Return all settings, the most telling first; smoke scale keeps one network and one stack."""
    mnist = dict(network=LENET, counted="bytes", lr=LR["mnist"], seeds=5)
    starts = STARTS + (MORE_STARTS if scale == "paper" else ())
    settings = [dict(kind="stack", method=method, rate=rate) | mnist for method, rate in starts]
    rates = [dict(kind="lr", method=stack.WHOLE, rate=1) | mnist | dict(lr=lr, seeds=2) for lr in RATES]
    files = [_file(network, method) for network in NETWORKS for method in (at_hand.WHOLE, L1)]
    chosen = [settings[1], files[1]] if scale == "smoke" else [*rates, *settings, *files]
    return [dict(name=_name(setting)) | setting for setting in chosen]


def _file(network: str, method: str) -> dict[str, Any]:
    about = NETWORKS[network] | dict(rate=1 if method == at_hand.WHOLE else NETWORKS[network]["rate"])
    return dict(kind="files", network=network, method=method, lr=LR["mnist" if network == LENET else "cifar10"]) | about


def _name(setting: Mapping[str, Any]) -> str:
    words = [setting["kind"], setting["network"], setting["method"], f"{setting['rate']}x"]
    return " ".join([*words, f"at {setting['lr']:g}"] if setting["kind"] == "lr" else words)


def run(setting: dict, *, seed: int, scale: str, device: str) -> dict:
    """Return one row: `setting` is an entry of `grid`. Raises ValueError for an unknown kind."""
    if setting["kind"] not in KINDS:
        raise ValueError(f"kind is {setting['kind']!r}; known are {', '.join(KINDS)}")
    splits = data.load("mnist" if setting["network"] == LENET else "cifar10", device=device, scale=scale)
    precision = training.fastest_precision(models.build(setting["network"]), splits.test.images.device)
    about = dict(dataset=splits.name, precision=str(precision).removeprefix("torch."))
    return about | KINDS[setting["kind"]](setting, splits, budget(scale), seed)


KINDS: dict[str, Callable[[dict, Splits, Mapping[str, Any], int], dict]] = {
    "lr": stack.pruning_rate, "stack": stack.stack, "files": at_hand.at_hand,
}  # fmt: skip
