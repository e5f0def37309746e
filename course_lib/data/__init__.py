"""Data sets as tensors that live on the device: MNIST, CIFAR-10, and stand-ins that need no download.

These sets fit in memory, so there are no worker processes and no copy per batch. Where the files come from is
`course_lib.data.download`'s business; data/README.md tells what they and the stand-ins are.
"""

import contextlib
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from course_lib import scale as scales
from course_lib.data import stand_ins
from course_lib.data.batches import Batches, Split, batched, example
from course_lib.data.download import FILES, FOLDERS, Unavailable, fetch, root_folder, unpickled
from course_lib.data.transfer import problem
from course_lib.files import replacing
from course_lib.scale import StandInWarning

__all__ = [
    "CLASSES",
    "DamagedDataError",
    "Batches",
    "REAL",
    "STATISTICS",
    "Split",
    "Splits",
    "batched",
    "example",
    "find",
    "load",
    "normalise",
]

REAL = {"mnist": "mnist-5k", "cifar10": "mnist-m"}  # data set -> its stand-in
CLASSES = {
    "mnist": tuple("0123456789"),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}
# Channel means and deviations of the training set, for inputs in [0, 1]. mnist-5k is normalised as MNIST is;
# mnist-m's were measured once on its 4,000 training images.
STATISTICS = {
    "mnist": ((0.1307,), (0.3081,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "mnist-5k": ((0.1307,), (0.3081,)),
    "mnist-m": ((0.4112, 0.4318, 0.3998), (0.3705, 0.2976, 0.3229)),
}

# Images of the original training set that are held out for choices: 500 (50) of each class
VALIDATION = {"mnist": 5_000, "cifar10": 5_000, "mnist-5k": 500, "mnist-m": 500}

Arrays = tuple[np.ndarray, ...]  # train images (N, C, height, width), labels (N,), test images, labels; all uint8


@dataclass(frozen=True)
class Splits:
    """A data set. `name` is the set really in use; `requested` what was asked for, another name for a stand-in.

    Train on `train`, choose on `validation`, report `test` once. The validation images are a part of the original training set
    that no network of this course has trained on: every class alike, the same images in every call.
    """

    train: Split
    validation: Split
    test: Split
    name: str
    requested: str
    why: str = ""  # the reason, where a stand-in is in use

    @property
    def is_stand_in(self) -> bool:
        """Whether these are not the data that was asked for."""
        return self.name != self.requested

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the ten classes, by label."""
        return CLASSES["cifar10" if self.name == "cifar10" else "mnist"]


def load(
    name: str,
    *,
    root: str | Path | None = None,
    device: str | torch.device | None = None,
    patience: float | None = None,
    scale: str | None = None,
) -> Splits:
    """A data set as normalised tensors on `device`.

    Real data that is absent is fetched first. At smoke scale, or where it cannot be had, the stand-in comes instead; in
    the second case with a `StandInWarning` that says why and what to do.

    Args:
        name: 'mnist', 'cifar10', or a stand-in by its own name: 'mnist-5k', 'mnist-m'.
        root: the data root; default COURSE_DATA, else `data/`.
        device: where the tensors shall live; default the CPU.
        patience: seconds to wait for a download before going on with the stand-in; None waits for as long as it takes.
        scale: 'smoke', 'lesson' or 'paper'; default the scale in force.

    Raises:
        ValueError: unknown name.
        DamagedDataError: a file is there, but is not what it should be.
        RuntimeError: at paper scale, where stand-ins are refused.
    """
    device = torch.device(device or "cpu")
    if _known(name) not in REAL:
        return _splits(stand_ins.READERS[name](), name, name, device)
    scale = scale or scales.name()
    if scale == "smoke":
        return _stand_in(name, "smoke scale uses embedded data", device)
    root = root_folder(root)
    if find(name, root) is None:
        try:
            fetch(name, root, patience=patience)
        except Unavailable as reason:
            advice = f"`python -m course_lib data {name}` fetches it"
            if scale == "paper":
                raise RuntimeError(f"{name} is not at hand ({reason}), and paper scale refuses stand-ins; {advice}") from reason
            message = f"{name} is not at hand ({reason}): using the stand-in {REAL[name]}; {advice}"
            warnings.warn(message, StandInWarning, stacklevel=2)
            return _stand_in(name, str(reason), device)
    return _splits(find(name, root)(root), name, name, device)


def find(name: str, root: Path) -> Callable[[Path], Arrays] | None:
    """The reader for the layout in which a real data set lies below `root`, or None where it does not."""
    return next((read for there, read in LAYOUTS[name].items() if (root / there).exists()), None)


def normalise(pixels: Tensor, name: str) -> Tensor:
    """uint8 pixels (N, C, height, width) -> float32 with the data set's channel statistics taken out."""
    mean, deviation = _statistics(name, pixels.device)
    return pixels.float().div_(255).sub_(mean).div_(deviation)


def _statistics(name: str, device: torch.device) -> list[Tensor]:
    return [torch.tensor(values, device=device).view(1, -1, 1, 1) for values in STATISTICS[_known(name)]]  # (1, C, 1, 1) each


def _known(name: str) -> str:
    if name not in STATISTICS:
        raise ValueError(f"name is {name!r}; known data sets are {', '.join(STATISTICS)}")
    return name


def _stand_in(name: str, why: str, device: torch.device) -> Splits:
    return _splits(stand_ins.READERS[REAL[name]](), REAL[name], name, device, why)


def _splits(arrays: Arrays, name: str, requested: str, device: torch.device, why: str = "") -> Splits:
    train_images, train_labels, test_images, test_labels = (torch.from_numpy(array).to(device) for array in arrays)
    whole = Split(normalise(train_images, name), train_labels.long())
    test = Split(normalise(test_images, name), test_labels.long())
    return Splits(*held_out(whole, VALIDATION[name]), test, name, requested, why)


def held_out(whole: Split, count: int) -> tuple[Split, Split]:
    """Return a split without `count` of its images, and these: every class alike, drawn the same way in every call.

    Raises:
        ValueError: `count` cannot be shared out evenly among the classes, or a class has too few images.
    """
    classes = int(whole.labels.max()) + 1
    order = torch.randperm(len(whole.labels), generator=torch.Generator().manual_seed(0)).to(whole.labels.device)
    chosen = [order[whole.labels[order] == kind][: count // classes] for kind in range(classes)]
    if count % classes or sum(len(places) for places in chosen) != count:
        raise ValueError(f"count is {count}; not that many of {len(whole.labels)} images can be held out, each class alike")
    out = torch.zeros(len(whole.labels), dtype=torch.bool, device=whole.labels.device)
    out[torch.cat(chosen)] = True
    return Split(whole.images[~out], whole.labels[~out]), Split(whole.images[out], whole.labels[out])


# Readers, one for each layout on the disk. A file whose MD5 is not the original's is refused: that costs 0.3 s for CIFAR-10.


class DamagedDataError(ValueError):
    """A data file is there, but is not what it should be."""


def _damaged(what: str, name: str) -> DamagedDataError:
    return DamagedDataError(f"{what}. `python -m course_lib data {name}` fetches the set again")


def _read(path: Path, md5: str, name: str) -> bytes:
    """A file's bytes, once its MD5 is right."""
    content = path.read_bytes() if path.is_file() else None
    if wrong := problem(path, md5, content):
        raise _damaged(wrong, name)
    return content


def _read_mnist(root: Path) -> Arrays:
    """idx files: behind a header of 4 bytes and 4 for each dimension, the bytes of images (N, 28, 28) or labels (N,)."""
    train_images, train_labels, test_images, test_labels = (
        np.frombuffer(bytearray(_read(root / FOLDERS["mnist"] / file, md5, "mnist")), np.uint8)
        for file, md5 in FILES["mnist"].items()
    )
    return train_images[16:].reshape(-1, 1, 28, 28), train_labels[8:], test_images[16:].reshape(-1, 1, 28, 28), test_labels[8:]


def _read_cifar10_binary(root: Path) -> Arrays:
    """The official binary version, six files of 10,000 records."""
    return _from_records([_read(root / FOLDERS["cifar10"] / file, md5, "cifar10") for file, md5 in FILES["cifar10"].items()])


def _read_cifar10_python(root: Path) -> Arrays:
    """The official Python version, as torchvision lays it out; a pickle is opened only once its MD5 is right."""
    return _from_records([unpickled(_read(root / PICKLES_FOLDER / file, md5, "cifar10")) for file, md5 in PICKLES.items()])


def _from_records(batches: list[bytes]) -> Arrays:
    """Records of 3,073 bytes: the label, then 1,024 bytes each of red, green and blue; the last batch is the test set."""
    train, test = (np.frombuffer(bytearray().join(part), np.uint8).reshape(-1, 3_073) for part in (batches[:-1], batches[-1:]))
    return train[:, 1:].reshape(-1, 3, 32, 32), train[:, 0], test[:, 1:].reshape(-1, 3, 32, 32), test[:, 0]


def _read_cifar10_png(root: Path) -> Arrays:
    """A folder tree cifar10/{train,test}/<class>/*.png; decoded once, then read from a file beside it."""
    cache = root / TREE / "decoded.npz"
    unusable = (OSError, KeyError, ValueError, zipfile.BadZipFile)  # absent, or damaged by its CRC-32: it is made anew
    with contextlib.suppress(*unusable), cache.open("rb") as stream, np.load(stream) as arrays:
        return tuple(arrays[part] for part in PARTS)
    arrays = tuple(array for part, count in TREE_COUNTS.items() for array in _decode_tree(root / TREE / part, count))
    # Where the folder cannot be written, the next call is slower, not wrong.
    with contextlib.suppress(OSError), replacing(cache) as scratch, scratch.open("wb") as stream:
        np.savez(stream, **dict(zip(PARTS, arrays, strict=True)))
    return arrays


def _decode_tree(folder: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 3, 32, 32) and labels (N,) of <class>/*.png, by class and name."""
    from PIL import Image

    files = [(path, label) for label, kind in enumerate(CLASSES["cifar10"]) for path in sorted((folder / kind).glob("*.png"))]
    if len(files) != count:
        raise _damaged(f"{folder} has {len(files)} PNG files below its class folders, expected {count}", "cifar10")
    images = np.empty((count, 3, 32, 32), np.uint8)
    for i, (path, _) in enumerate(files):
        try:
            image = Image.open(path).convert("RGB")
        except (OSError, SyntaxError) as reason:  # the second is Pillow's for a wrong checksum
            raise _damaged(f"{path} is damaged: {reason}", "cifar10") from reason
        if image.size != (32, 32):
            raise _damaged(f"{path} has {image.width}x{image.height} pixels, expected 32x32", "cifar10")
        images[i] = np.asarray(image).transpose(2, 0, 1)
    return images, np.array([label for _, label in files], np.uint8)


TREE = Path("cifar10")
TREE_COUNTS = {"train": 50_000, "test": 10_000}
PARTS = ("train_images", "train_labels", "test_images", "test_labels")
PICKLES_FOLDER = Path("cifar-10-batches-py")
PICKLES = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
# By the first file of a layout one knows that the set is there; the first layout that is there is read.
LAYOUTS: dict[str, dict[Path, Callable[[Path], Arrays]]] = {
    "mnist": {FOLDERS["mnist"] / "train-images-idx3-ubyte": _read_mnist},
    "cifar10": {
        FOLDERS["cifar10"] / "data_batch_1.bin": _read_cifar10_binary,
        PICKLES_FOLDER / "data_batch_1": _read_cifar10_python,
        TREE / "train": _read_cifar10_png,
    },
}
