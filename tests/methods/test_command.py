"""`python -m course_lib prune` and `methods`."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import resnet18

from course_lib import methods, models
from course_lib.__main__ import main


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """resnet18 for three classes, and a folder of photographs of noise."""
    folder = tmp_path_factory.mktemp("prune")
    torch.manual_seed(0)
    torch.save({"state_dict": resnet18(num_classes=3).state_dict()}, folder / "resnet18.pt")
    random = np.random.default_rng(0)
    for kind in ("ant", "bee", "cat"):
        (folder / "photos" / kind).mkdir(parents=True)
        for number in range(3):
            Image.fromarray(random.integers(0, 256, (80, 90, 3), np.uint8)).save(folder / "photos" / kind / f"{number}.png")
    return folder


def test_methods_lists_all_seven_with_a_line_each(capsys):
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(methods.METHODS)
    assert all(("looks at images" in line) == methods.METHODS[line.split()[0]].needs_images for line in lines)


def test_methods_tells_the_settings_of_those_that_are_named(capsys):
    assert main(["methods", "thinet"]) == 0
    told = capsys.readouterr().out
    assert "keep = 0.5" in told and "per_class" in told and "Raises" in told
    assert main(["methods", "magic"]) == 2


def test_thinet_on_a_folder_of_images_prints_the_costs_and_writes_a_network(checkpoint, capsys):
    out = checkpoint / "thin.safetensors"
    arguments = [str(checkpoint / "resnet18.pt"), "--model", "torchvision:resnet18", "--method", "thinet", "--keep", "0.5"]
    settings = ["--data", str(checkpoint / "photos"), "--size", "64", "--set", "per_class=2"]
    assert main(["prune", *arguments, *settings, "--out", str(out)]) == 0
    told = capsys.readouterr().out
    assert "baseline" in told and "MACs" in told and "accuracy on" in told
    thin = methods.load(out, resnet18(num_classes=3))
    assert thin.layer1[0].conv1.out_channels == 32


def test_a_method_that_looks_at_weights_needs_no_folder(tmp_path):
    torch.manual_seed(0)
    from safetensors.torch import save_file

    save_file(models.build("lenet-5").state_dict(), tmp_path / "lenet.safetensors")
    arguments = [str(tmp_path / "lenet.safetensors"), "--model", "lenet-5", "--method", "weight-pruning", "--sparsity", "0.9"]
    assert main(["prune", *arguments, "--out", str(tmp_path / "sparse")]) == 0
    sparse = methods.load(tmp_path / "sparse", models.build("lenet-5"))
    assert (sparse.fc1.weight == 0).float().mean() == pytest.approx(0.9, abs=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--data": None}, "thinet looks at images.*--data"),
        ({"--method": "magic"}, "method is 'magic'"),
        ({"--model": "torchvision:resnet50"}, "of another network than torchvision:resnet50"),
        ({"--model": "torchvision:nothing"}, "--model is 'torchvision:nothing'"),
        ({"--model": "somewhere:resnet18"}, "--model is 'somewhere:resnet18'"),
        ({"--keep": "7.5"}, "keep is 7.5"),
        ({"--set": "colour=red"}, "'colour' is no setting of thinet"),
        ({"--set": "colour"}, "expected name=value"),
        ({"--data": "nowhere"}, "no folder nowhere"),
        ({"--out": "CHECKPOINT"}, "the file that is read"),
        ({"CHECKPOINT": "none.pt"}, "no checkpoint none.pt"),
    ],
)
def test_mistakes_are_told_in_a_line(checkpoint, tmp_path, capsys, changes, message):
    given = {
        "CHECKPOINT": str(checkpoint / "resnet18.pt"), "--model": "torchvision:resnet18", "--method": "thinet", "--keep": "0.5",
        "--data": str(checkpoint / "photos"), "--size": "64", "--out": str(tmp_path / "out"),
    } | changes  # fmt: skip
    given["--out"] = given["CHECKPOINT"] if given["--out"] == "CHECKPOINT" else given["--out"]
    first = given.pop("CHECKPOINT")
    assert main(["prune", first, *(part for pair in given.items() if pair[1] for part in pair)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert re.search(message, error)
    assert not (tmp_path / "out").exists()
