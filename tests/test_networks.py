"""A compressed network's file: the surgery is repeated on a fresh network, and the outputs are the same."""

import copy
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from course_lib import models, storage, surgery
from course_lib.storage import networks
from course_lib.storage.codes import Sparse, pack, unpack
from course_lib.surgery.inputs import keep_inputs
from tests.test_surgery import pruned_vgg


def test_a_narrow_network_is_loaded_in_a_fresh_process(tmp_path):
    model, images = pruned_vgg(), models.example_input("vgg-small", 4)
    networks.save(model, tmp_path / "pruned.safetensors")
    torch.save(images, tmp_path / "images.pt")
    script = (
        "import sys, torch; from course_lib import models; from course_lib.storage import networks\n"
        "torch.manual_seed(5); folder = sys.argv[1]\n"
        "model = networks.load(folder + '/pruned.safetensors', models.build('vgg-small'))\n"
        "assert model.surgery_steps[1]['kept'] == {'conv2': [1, 3]}\n"
        "torch.save(model(torch.load(folder + '/images.pt')).detach(), folder + '/scores.pt')"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    assert torch.equal(torch.load(tmp_path / "scores.pt"), model(images).detach())


def test_the_file_is_smaller_and_a_network_that_was_never_narrowed_has_one_too(tmp_path):
    whole = models.build("vgg-small")
    networks.save(whole, tmp_path / "whole.safetensors")
    networks.save(pruned_vgg(), tmp_path / "pruned.safetensors")
    assert torch.equal(networks.load(tmp_path / "whole.safetensors", models.build("vgg-small")).fc.weight, whole.fc.weight)
    sizes = [sum(4 * p.numel() for p in model.state_dict().values()) for model in (whole, pruned_vgg())]
    saved = (tmp_path / "whole.safetensors").stat().st_size - (tmp_path / "pruned.safetensors").stat().st_size
    assert saved == pytest.approx(sizes[0] - sizes[1], rel=0.01)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-7]), "damaged"),
        (lambda path: path.write_bytes(b"no safetensors"), "damaged"),
        (
            lambda path: __import__("safetensors.torch").torch.save_file({"a": torch.ones(1)}, path),
            "no network saved by this course",
        ),
    ],
)
def test_a_spoilt_file_is_refused(tmp_path, spoil, message):
    path = tmp_path / "pruned.safetensors"
    networks.save(pruned_vgg(), path)
    spoil(path)
    with pytest.raises(ValueError, match=message):
        networks.load(path, models.build("vgg-small"))


def test_a_file_of_another_network_or_none_is_refused(tmp_path):
    path = tmp_path / "pruned.safetensors"
    networks.save(pruned_vgg(), path)
    with pytest.raises(ValueError, match="conv2"):
        networks.load(path, models.build("resnet-20"))
    networks.save(models.build("lenet-5"), path)
    with pytest.raises(ValueError, match="holds another network"):
        networks.load(path, models.build("vgg-small"))
    with pytest.raises(FileNotFoundError, match="none.safetensors"):
        networks.load(tmp_path / "none.safetensors", models.build("vgg-small"))


def same(first: nn.Module, second: nn.Module, images: torch.Tensor) -> bool:
    with torch.no_grad():
        return torch.equal(first.eval()(images), second.eval()(images))


def test_fewer_inputs_come_back_with_their_biases_and_samplers(tmp_path):
    torch.manual_seed(0)
    model, images = models.build("resnet-20"), models.example_input("resnet-20", 4)
    narrower = keep_inputs(model, {"stage1.0.conv1": [1, 2], "stage1.0.conv2": [0, 5, 7]}, images[:1])
    narrower = surgery.keep_channels(narrower, "stage2.1.conv1", range(9), images[:1])
    assert narrower.stage1[0].conv2.bias is not None and "sampler" in str(narrower)
    networks.save(narrower, tmp_path / "network")
    loaded = networks.load(tmp_path / "network", models.build("resnet-20"))
    assert same(narrower, loaded, images) and loaded.surgery_steps == narrower.surgery_steps


def test_surgery_on_a_part_comes_back_at_its_place(tmp_path):
    images = models.example_input("vgg-small", 2)

    def wrapped(part: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Identity(), nn.ModuleDict(dict(inner=part))["inner"])

    model = wrapped(pruned_vgg())
    networks.save(model, tmp_path / "network")
    assert same(model, networks.load(tmp_path / "network", wrapped(models.build("vgg-small"))), images)


def test_a_network_of_many_zeros_takes_a_bit_for_each_weight_and_its_values(tmp_path):
    model = models.build("lenet-300-100")
    with torch.no_grad():
        for name in ("fc1", "fc2"):
            model.get_submodule(name).weight[torch.rand(model.get_submodule(name).weight.shape) < 0.9] = 0
    networks.save(model, tmp_path / "network")
    total = sum(p.numel() for p in model.parameters())
    nonzero = sum(int(p.count_nonzero()) for p in model.parameters())
    assert (tmp_path / "network").stat().st_size == pytest.approx(total / 8 + 4 * nonzero, rel=0.03)
    loaded = networks.load(tmp_path / "network", models.build("lenet-300-100")).state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.floats(0, 1), st.integers(0, 10**6))
def test_sparse_is_exact_for_any_shape_and_sparsity(shape, share, seed):
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=random) * (torch.rand(shape, generator=random) >= share)
    tensors, facts = pack(Sparse.of(weight))
    assert torch.equal(unpack(tensors, facts).decode(), weight)
    assert Sparse.of(weight).bits == weight.numel() + 32 * int(weight.count_nonzero())


def test_codes_that_no_longer_stand_for_the_weights_are_refused(tmp_path):
    model = models.build("lenet-300-100")
    codes = {"fc1.weight": Sparse.of(model.fc1.weight)}
    networks.save(model, tmp_path / "network", codes)
    before = (tmp_path / "network").read_bytes()
    trained = copy.deepcopy(model)
    trained.fc1.weight.data.add_(0.1)
    with pytest.raises(ValueError, match="fc1.weight.*trained since"):
        networks.save(trained, tmp_path / "network", codes)
    with pytest.raises(ValueError, match="names 'fc9.weight'"):
        networks.save(model, tmp_path / "network", {"fc9.weight": codes["fc1.weight"]})
    assert (tmp_path / "network").read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_a_compressed_network_is_stored_as_its_own_bytes(tmp_path):
    torch.manual_seed(0)
    model = models.build("lenet-300-100")
    with torch.no_grad():
        for layer in (model.fc1, model.fc2):
            layer.weight.copy_((20 * layer.weight).round() / 20)
    codebook, codes = model.fc1.weight.detach().flatten().unique(return_inverse=True)
    coded = storage.CodedTensor(model.fc1.weight.shape, codebook, codes, torch.empty(0, dtype=torch.int64), 0)
    compressed = storage.CompressedNetwork("", {"fc1.weight": coded, "fc1.bias": model.fc1.bias.detach()}, "huffman")
    networks.save(model, tmp_path / "network", compressed)
    loaded = networks.load(tmp_path / "network", models.build("lenet-300-100"))
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    assert (tmp_path / "network").stat().st_size < 0.45 * 4 * 266_610
