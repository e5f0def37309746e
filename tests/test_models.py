"""Networks counted by hand, and checkpoints that are what their side files say."""

import shutil

import pytest
import torch

from course_lib import data, models
from course_lib.models.pretraining import CHECKPOINTS
from course_lib.training import evaluate


def conv(inputs: int, outputs: int, size: int, bias: bool) -> int:
    return inputs * outputs * size**2 + outputs * bias


def convs_with_norm(widths: list[int], size: int = 3) -> int:
    """Convolutions without a bias, each with a batch norm of two parameters a channel."""
    return sum(conv(c, n, size, False) + 2 * n for c, n in zip(widths, widths[1:], strict=False))


def resnet(blocks: int) -> int:
    stages = [[16] * (2 * blocks + 1), [16] + [32] * 2 * blocks, [32] + [64] * 2 * blocks]
    shortcuts = convs_with_norm([16, 32], 1) + convs_with_norm([32, 64], 1)
    return convs_with_norm([3, 16]) + sum(map(convs_with_norm, stages)) + shortcuts + 650


VGG_16 = [3, 64, 64, 128, 128, 256, 256, 256] + [512] * 6
COUNTS = {
    "lenet-300-100": 784 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10,
    "lenet-5": conv(1, 20, 5, True) + conv(20, 50, 5, True) + 800 * 500 + 500 + 5_010,
    "lenet-5-relu": 431_080,
    "vgg-small": convs_with_norm([3, 32, 32, 64, 64, 128, 128]) + 1_290,
    "vgg-16": convs_with_norm(VGG_16) + 512 * 512 + 2 * 512 + 5_130,
    "resnet-20": resnet(3),
    "resnet-56": resnet(9),
}


@pytest.mark.parametrize("name", models.NETWORKS)
def test_parameters_and_shapes(name):
    model = models.build(name).eval()
    assert sum(p.numel() for p in model.parameters()) == COUNTS[name]
    assert model(models.example_input(name, 2)).shape == (2, 10)
    assert models.build(name, num_classes=7).eval()(models.example_input(name)).shape == (1, 7)


def test_the_papers_own_counts():
    assert (COUNTS["lenet-300-100"], COUNTS["lenet-5"]) == (266_610, 431_080)


def test_unknown_names_list_the_known():
    for call in (models.build, models.input_shape, models.example_input, lambda name: models.pretrained(name, "mnist")):
        with pytest.raises(ValueError, match="alexnet.*lenet-300-100.*resnet-56"):
            call("alexnet")
    with pytest.raises(ValueError, match="num_classes is 1"):
        models.build("lenet-5", 1)


@pytest.fixture
def checkpoints(tmp_path, monkeypatch):
    for path in CHECKPOINTS.glob("lenet-300-100.mnist-5k.*"):
        shutil.copy(path, tmp_path)
    monkeypatch.setattr(models.pretraining, "CHECKPOINTS", tmp_path)
    return tmp_path


def test_an_absent_checkpoint_lists_those_that_are_there(checkpoints):
    with pytest.raises(FileNotFoundError, match="'lenet-5' on data set 'mnist-5k'; there are: lenet-300-100.mnist-5k"):
        models.pretrained("lenet-5", "mnist-5k")


def test_a_damaged_checkpoint_says_what_to_do(checkpoints):
    path = checkpoints / "lenet-300-100.mnist-5k.safetensors"
    raw = bytearray(path.read_bytes())
    raw[5000] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="is damaged.*git checkout -- data/checkpoints"):
        models.pretrained("lenet-300-100", "mnist-5k")


def test_a_checkpoint_comes_back_bit_for_bit(checkpoints):
    model = models.build("resnet-20")
    model.norm1.running_mean.normal_()
    models.save_checkpoint(model, "resnet-20", "nothing", dict(accuracy=0.1))
    again = models.pretrained("resnet-20", "nothing")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert not again.training


def test_a_network_that_has_to_be_trained_is_trained_where_it_is_wanted(monkeypatch, tmp_path):
    asked = []

    def train(name, dataset, *, seed, device):
        asked.append((seed, device))
        models.save_checkpoint(models.build(name), name, dataset, {}, seed)

    monkeypatch.setattr("course_lib.models.pretraining.BUILT", tmp_path)
    monkeypatch.setattr("course_lib.models.pretraining.train", train)
    found = models.pretrained("lenet-300-100", "mnist", 3, device=torch.device("meta"))
    assert asked == [(3, "meta")] and {parameter.device.type for parameter in found.parameters()} == {"meta"}


def test_every_committed_checkpoint_is_whole_and_they_are_small():
    paths = sorted(CHECKPOINTS.glob("*.safetensors"))
    assert sum(path.stat().st_size for path in paths) < 20_000_000
    assert len(paths) == sum(models.COMMITTED.values())
    for (network, dataset), count in models.COMMITTED.items():
        for seed in range(count):
            facts = models.checkpoint_facts(network, dataset, seed)
            assert {"accuracy", "validation_accuracy", "dataset", "epochs", "command", "versions"} <= set(facts)
            assert facts["seed"] == seed and facts["dataset"] == dataset
            models.pretrained(network, dataset, seed)


# What the course relies on: the largest error of a kind of network, in percent, as a mean over those that are committed
LARGEST_ERROR = {
    ("lenet-300-100", "mnist"): 1.0,
    ("lenet-5", "mnist"): 0.65,
    ("lenet-5-relu", "mnist"): 0.65,
    ("resnet-20", "cifar10"): 8.7,
    ("vgg-small", "cifar10"): 9.4,
}


@pytest.mark.parametrize(("network", "dataset"), LARGEST_ERROR)
def test_the_baselines_are_as_good_as_promised(network, dataset):
    accuracies = [
        models.checkpoint_facts(network, dataset, seed)["accuracy"] for seed in range(models.COMMITTED[network, dataset])
    ]
    assert 100 * (1 - sum(accuracies) / len(accuracies)) <= LARGEST_ERROR[network, dataset]
    assert len(set(accuracies)) == len(accuracies)


@pytest.mark.parametrize(("network", "dataset"), [pair for pair in models.COMMITTED if pair[1] in data.REAL.values()])
def test_a_baseline_has_the_accuracies_of_its_side_file(network, dataset):
    model, splits, facts = models.pretrained(network, dataset), data.load(dataset), models.checkpoint_facts(network, dataset)
    assert evaluate(model, splits.test) == pytest.approx(facts["accuracy"], abs=0.003)
    assert evaluate(model, splits.validation) == pytest.approx(facts["validation_accuracy"], abs=0.006)
    assert facts["examples"] == len(splits.train.labels)  # none of the validation images


@pytest.fixture
def built(tmp_path, monkeypatch):
    """Networks that do not come with the course, one epoch each, below a folder of the test."""
    for folder in ("BUILT", "STATES"):
        monkeypatch.setattr(models.pretraining, folder, tmp_path / folder.lower())
    monkeypatch.setitem(models.RECIPES, ("lenet-300-100", "mnist-5k"), dict(epochs=1, lr=0.05))
    return tmp_path / "built"


def test_another_seed_is_another_network_trained_once(built, monkeypatch):
    first, second = (models.pretrained("lenet-300-100", "mnist-5k", seed) for seed in (1, 2))
    assert not torch.equal(first.fc1.weight, second.fc1.weight)
    assert {path.name for path in built.glob("*.safetensors")} == {f"lenet-300-100.mnist-5k.seed-{n}.safetensors" for n in (1, 2)}
    monkeypatch.setattr(models.pretraining.training, "fit", lambda *_, **__: pytest.fail("trains again"))
    assert torch.equal(models.pretrained("lenet-300-100", "mnist-5k", 1).fc1.weight, first.fc1.weight)


def test_training_a_network_leaves_the_random_state_alone(built):
    state = torch.random.get_rng_state()
    models.pretrained("lenet-300-100", "mnist-5k", 3)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_network_of_absent_data_is_not_trained_on_the_stand_in(built, monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_SCALE", "smoke")
    with pytest.raises(RuntimeError, match="must not be trained on the stand-in mnist-5k"):
        models.pretrained("lenet-300-100", "mnist", 1)
    assert not list(built.glob("*.safetensors"))
    with pytest.raises(ValueError, match="seed is -1"):
        models.pretrained("lenet-300-100", "mnist", -1)
