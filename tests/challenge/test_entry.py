"""Files that take part: decoded as the course decodes them, run as the course runs them, and everything else refused."""

import dataclasses
import math
import random
import shutil
import signal
import subprocess
import sys
from binascii import crc_hqx

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from course_lib import data, models, storage, training
from course_lib.challenge import apart, measuring
from course_lib.challenge.entry import LARGEST, Entry, decoded
from course_lib.storage import CodedTensor, CompressedNetwork
from tests.challenge.small import SHAPES, content, small
from tests.classroom.mini import needs_bwrap
from tests.processes import ROOT

WIDTHS = {"lenet-5": (2, 3, 4), "lenet-300-100": (5, 4)}


def arrays(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.float().numpy() for name, tensor in state.items()}


@pytest.mark.parametrize("network", WIDTHS)
@pytest.mark.parametrize("coder", ["fixed", "huffman", "ans", "context"])
def test_every_coder_s_file_is_decoded_as_storage_decodes_it(tmp_path, network, coder):
    compressed = small(network, WIDTHS[network], coder)
    storage.save(compressed, tmp_path / "file")
    wanted = arrays(storage.load(tmp_path / "file").state_dict())
    for found in (decoded((tmp_path / "file").read_bytes()), apart.decode((tmp_path / "file").read_bytes(), sandboxed=False)):
        assert found.network == network and found.tensors.keys() == wanted.keys()
        assert all(np.array_equal(found.tensors[name], wanted[name]) for name in wanted)
        assert found.widths == "-".join(map(str, WIDTHS[network]))


@needs_bwrap
def test_a_file_is_decoded_in_the_sandbox():
    found, wanted = apart.decode(content(), sandboxed=True), decoded(content())
    assert all(np.array_equal(found.tensors[name], wanted.tensors[name]) for name in wanted.tensors)
    with pytest.raises(ValueError, match="CRC-16"):
        apart.decode(content() + b"\0", sandboxed=True)


@pytest.mark.parametrize("network", WIDTHS)
def test_a_trained_network_errs_as_the_course_says(network):
    model, test = models.pretrained(network, "mnist-5k"), data.load("mnist").test
    found = measuring.wrong(measuring.network(Entry(network, arrays(model.state_dict()))), test)
    assert found == round(len(test.labels) * (1 - training.evaluate(model, test)))


def test_a_narrow_network_computes_as_caffe_s():
    state = small().state_dict()
    images = torch.randn(7, 1, 28, 28)
    maps = F.max_pool2d(F.conv2d(images, state["conv1.weight"], state["conv1.bias"]), 2)
    maps = F.max_pool2d(F.conv2d(maps, state["conv2.weight"], state["conv2.bias"]), 2)
    hidden = (maps.flatten(1) @ state["fc1.weight"].T + state["fc1.bias"]).relu()
    wanted = hidden @ state["fc2.weight"].T + state["fc2.bias"]
    assert torch.allclose(measuring.network(decoded(content()))(images), wanted, rtol=1e-4, atol=1e-4)


def test_scores_that_are_not_finite_are_wrong():
    tensors = arrays(small().state_dict()) | {"fc2.bias": np.zeros(10, np.float32), "fc2.weight": np.zeros((10, 4), np.float32)}
    images = torch.zeros(20, 1, 28, 28)
    split = data.Split(images, torch.zeros(20, dtype=torch.int64))
    assert measuring.wrong(measuring.network(Entry("lenet-5", tensors)), split) == 0  # all scores alike: the first class
    tensors |= {name: np.full_like(tensors[name], 3e38) for name in ("fc1.bias", "fc2.weight")}
    assert measuring.wrong(measuring.network(Entry("lenet-5", tensors)), split) == 20


# What is refused


def changed(**tensors: object) -> bytes:
    """The file of a small LeNet-5 with some tensors replaced, or taken out."""
    found = small(coder="ans")
    replaced = found.tensors | {name.replace("_", "."): tensor for name, tensor in tensors.items()}
    return storage.encode(CompressedNetwork("lenet-5", {n: t for n, t in replaced.items() if t is not None}, "ans"))


def constant(network: str, *widths: int) -> bytes:
    """A network of zeros, which takes few bytes however large it is."""
    none = torch.zeros(0, dtype=torch.int64)
    shapes = {name: torch.Size(shape) for name, shape in SHAPES[network](*widths).items()}
    tensors = {
        name: CodedTensor(shape, torch.zeros(1), torch.zeros(shape.numel(), dtype=torch.int64), none, 0)
        for name, shape in shapes.items()
    }
    return storage.encode(CompressedNetwork(network, tensors, "ans"))


NO_NEURONS = dict(fc1_weight=torch.zeros(0, 48), fc1_bias=torch.zeros(0), fc2_weight=torch.zeros(10, 0))
WRONG_SHAPE = r"fc1.weight has shape \(4, 40\); in a lenet-5 of widths 2-3-4 it has \(4, 48\)"
REFUSED = {  # case -> what makes the file, and the message
    "another network": (
        lambda: storage.encode(CompressedNetwork("vgg-16", {}, "ans")),
        "named 'vgg-16'; allowed are 'lenet-5' and 'lenet-300-100'",
    ),
    "no name": (lambda: storage.encode(CompressedNetwork("", small().tensors, "context")), "named ''; allowed are"),
    "a tensor is missing": (lambda: changed(fc2_bias=None), "has exactly conv1.weight, .*, fc2.bias"),
    "a tensor too many": (lambda: changed(fc9_bias=torch.zeros(3)), "tensors are .*fc9.bias.*has exactly"),
    "a wrong shape": (lambda: changed(fc1_weight=torch.zeros(4, 40)), WRONG_SHAPE),
    "no dimensions": (lambda: changed(conv1_weight=torch.zeros(())), r"conv1.weight has shape \(\)"),
    "no neurons": (lambda: changed(**NO_NEURONS), "none of them 0"),
    "NaN": (lambda: changed(fc2_bias=torch.full((10,), math.nan)), "fc2.bias holds infinity or NaN"),
    "infinity": (lambda: changed(fc2_bias=torch.full((10,), math.inf)), "fc2.bias holds infinity or NaN"),
    "too large": (lambda: bytes(LARGEST + 1), "more than 65,536 bytes"),
    "too many weights": (lambda: constant("lenet-300-100", 600, 100), "declares 532110 weights; max_weights is 500000"),
    "too much to compute": (lambda: constant("lenet-5", 400, 1, 1), "6,400,026 multiplications for a digit; allowed are"),
    "empty": (lambda: b"", "the file has 0 bytes"),
    "another format": (lambda: b"\x80\x04 a pickle, or anything else", "begins with"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_may_not_take_part_is_told(case):
    make, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        decoded(make())


def test_the_full_networks_may_take_part():
    assert decoded(constant("lenet-5", 20, 50, 500)).widths == "20-50-500"
    assert decoded(constant("lenet-300-100", 300, 100)).widths == "300-100"


def test_two_thousand_damaged_files_are_refused_or_well_formed():
    draw, refused = random.Random(0), 0
    files = [content(widths=(1, 1, 1)), content("lenet-300-100", (1, 1)), content(widths=(1, 1, 1), coder="huffman")]
    for number in range(2_000):
        body = bytearray(files[number % 3])
        for _ in range(draw.randint(1, 4)):
            place = draw.randrange(1, len(body))
            body[place : place + draw.randrange(2)] = draw.randbytes(draw.randrange(3))
        if number % 3 < 2 and number % 2:  # behind a right checksum
            body[1:3] = crc_hqx(bytes(body[3:]), 0).to_bytes(2, "little")
        try:
            assert isinstance(decoded(bytes(body)), Entry)
        except ValueError:
            refused += 1
    assert 1_000 < refused < 2_000


# The process of its own


@pytest.mark.parametrize(
    "reply",
    [
        b"", b"\n", b"null\n", b"[" * 60_000, b'{"network": "lenet-5", "shapes": {}}\n', b'{"network": "lenet-5", "shapes": 3}\n',
        b'{"network": "lenet-5", "shapes": {"fc1.weight": 3}}\n', b'{"network": "lenet-5", "shapes": {"fc1.weight": [1e300]}}\n',
        b'{"network": 5, "shapes": {}}\n', b'{"error": 5}\n', b"\xff\xfe\n",
    ],
)  # fmt: skip
def test_a_reply_is_not_believed(reply):
    with pytest.raises(ValueError, match="."):
        apart._received(reply)


def test_a_reply_without_all_numbers_is_refused():
    shapes = ", ".join(f'"{name}": {list(shape)}' for name, shape in SHAPES["lenet-300-100"](1, 1).items())
    with pytest.raises(ValueError, match="buffer"):
        apart._received(f'{{"network": "lenet-300-100", "shapes": {{{shapes}}}}}\n'.encode() + bytes(80))


def test_decoding_ends_at_its_limit_by_the_clock(monkeypatch):
    monkeypatch.setattr(apart, "LIMITS", dataclasses.replace(apart.LIMITS, seconds=0.01))
    with pytest.raises(ValueError, match="decoding was ended after 0.01 seconds"):
        apart.decode(content(), sandboxed=False)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have fewer limits")
@pytest.mark.parametrize(
    ("limit", "endings"),
    [
        ("apart.CPU_SECONDS = 1", [-signal.SIGKILL]),
        # Where memory is short, Python may not even be able to report it, and goes on until its time is over
        ("apart.LIMITS = apart.dataclasses.replace(apart.LIMITS, memory=20 << 20)", [1, -signal.SIGKILL]),
    ],
)
def test_a_process_that_takes_too_much_is_ended(limit, endings):
    code = f"import dataclasses; from course_lib.challenge import apart; apart.dataclasses = dataclasses; {limit}; apart.main()"
    heavy = content("lenet-300-100", (150, 100), seed=1)  # 0.13 million random levels
    done = subprocess.run([sys.executable, "-c", code], input=heavy, capture_output=True, cwd=ROOT, timeout=200)
    assert done.returncode in endings and done.stdout == b""


@pytest.mark.skipif(shutil.which("false") is None, reason="this system has no program that fails")
def test_a_process_that_was_ended_is_told(monkeypatch):
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(ValueError, match="it took more than 60 seconds or 1024 MiB, or crashed"):
        apart.decode(content(), sandboxed=False)


def test_decoding_needs_no_torch():
    code = "import sys, course_lib.challenge.apart; assert not {'torch', 'pandas', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=100)
