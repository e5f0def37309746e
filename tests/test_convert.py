"""The command line of compressed files: a checkpoint goes in and comes out, whatever network it is of."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from course_lib import masks, models, surgery
from course_lib.__main__ import main
from course_lib.papers import deep_compression, weight_pruning
from course_lib.storage import networks


@pytest.fixture
def checkpoint(tmp_path):
    model = models.pretrained("lenet-5", "mnist-5k")
    masks.apply(model, weight_pruning.magnitude_masks(model, 0.9))
    save_file(model.state_dict(), tmp_path / "lenet-5.pruned.safetensors")
    return tmp_path / "lenet-5.pruned.safetensors"


def test_a_checkpoint_goes_there_and_back(checkpoint, tmp_path, capsys):
    out, back = tmp_path / "small.cnet", tmp_path / "back.safetensors"
    assert main(["compress", str(checkpoint), "--out", str(out), "--bits", "conv=8,fc1=4,fc2=5", "--coder", "ans"]) == 0
    said = capsys.readouterr().out
    assert f"{checkpoint.stat().st_size:,} bytes" in said and f"{out.stat().st_size:,} bytes" in said
    assert checkpoint.stat().st_size > 20 * out.stat().st_size
    assert main(["inspect", str(out)]) == 0
    assert "fc1.weight" in (said := capsys.readouterr().out) and "entropy" in said
    assert max(map(len, said.splitlines())) <= 100
    assert main(["decompress", str(out), "--out", str(back)]) == 0
    model = models.build("lenet-5")
    model.load_state_dict(load_file(checkpoint))
    expected = deep_compression.quantize(model, bits=dict(conv=8, fc1=4, fc2=5)).state_dict()
    read = load_file(back)
    assert set(read) == set(expected) and all(torch.equal(read[name], value) for name, value in expected.items())


def test_any_network_will_do(tmp_path):
    shapes = {"deep.er.weight": (4, 3, 3, 3), "norm.weight": (4,), "norm.running_mean": (4,), "head.weight": (2, 4)}
    tensors = {name: torch.randn(shape) for name, shape in shapes.items()} | {"norm.num_batches_tracked": torch.tensor(3)}
    tensors["head.weight"][0] = 0
    save_file(tensors, tmp_path / "a.safetensors")
    assert main(["compress", str(tmp_path / "a.safetensors"), "--out", str(tmp_path / "b"), "--bits", "16"]) == 0
    assert main(["decompress", str(tmp_path / "b"), "--out", str(tmp_path / "c")]) == 0
    read = load_file(tmp_path / "c")
    assert all(torch.equal(read[name], value) for name, value in tensors.items())


def test_what_a_method_saved_can_be_compressed_too(tmp_path, capsys):
    """Its weights may be coded, and channels removed, which is said."""
    model = surgery.narrow(models.pretrained("lenet-5", "mnist-5k"), dict(conv1=range(15)), models.example_input("lenet-5"))
    masks.apply(model, weight_pruning.magnitude_masks(model, 0.9))
    networks.save(model, tmp_path / "a.safetensors")
    assert main(["compress", str(tmp_path / "a.safetensors"), "--out", str(tmp_path / "b"), "--bits", "16"]) == 0
    assert "a.safetensors was narrowed" in capsys.readouterr().out
    assert main(["decompress", str(tmp_path / "b"), "--out", str(tmp_path / "c")]) == 0
    read, expected = load_file(tmp_path / "c"), deep_compression.quantize(model, bits=16).state_dict()
    assert set(read) == set(expected) and all(torch.equal(read[name], value) for name, value in expected.items())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compress", "{folder}/absent.safetensors", "--out", "{folder}/x"], "no checkpoint"),
        (["compress", "{folder}/text.safetensors", "--out", "{folder}/x"], "is no safetensors file"),
        (["compress", "{checkpoint}", "--out", "{checkpoint}"], "--out is"),
        (["compress", "{checkpoint}", "--out", "{folder}/x", "--bits", "five"], "bits are 'five'"),
        (["compress", "{checkpoint}", "--out", "{folder}/x", "--bits", "fc9=5"], "bits are given for 'fc9'"),
        (["decompress", "{folder}/text.safetensors", "--out", "{folder}/x"], "header"),
        (["inspect", "{folder}/absent"], "absent"),
    ],
)
def test_mistakes_are_told_in_a_line_and_leave_no_file(checkpoint, tmp_path, capsys, arguments, message):
    (tmp_path / "text.safetensors").write_text("no network at all, but long enough to have a header")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert main([part.format(folder=tmp_path, checkpoint=checkpoint) for part in arguments]) == 2
    assert message in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
