"""Methods one after the other, and files at hand: equal budgets, files that hold the network, choices by validation images."""

import importlib.util
import json
import lzma
import sys
from collections import OrderedDict
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load as load_tensors
from torch import nn

from course_lib import data, models, storage
from course_lib.data import Splits
from course_lib.experiments import at_hand, combined, kept_networks, onnx_int8, stack
from course_lib.experiments import combined_tables as tables
from course_lib.experiments import rows as rows_of
from course_lib.experiments.runner import HEADLINE
from course_lib.lessons import combined as lesson
from course_lib.papers import deep_compression
from course_lib.storage import networks

ABOUT = dict(
    name="a", experiment="combined", scale="smoke", seed=0, seconds=1.0, device="CPU", versions={}, date="2026-01-01",
    command="none", fingerprint="0",
)  # fmt: skip
WORK = dict(
    trimming=3, pruning=2, centroids=1, retraining=2, fewer=(5, 10), bits=(3, 4), images=60, calibration=20
)  # fmt: skip
LENET = combined.LENET


def small(classes: int = 10) -> nn.Module:
    """The layers of lenet-5-relu, narrower."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv1=nn.Conv2d(1, 6, 5), relu1=nn.ReLU(), pool1=nn.MaxPool2d(2))
    layers |= OrderedDict(conv2=nn.Conv2d(6, 12, 5), relu2=nn.ReLU(), pool2=nn.MaxPool2d(2), flatten=nn.Flatten())
    return nn.Sequential(layers | OrderedDict(fc1=nn.Linear(192, 60), relu3=nn.ReLU(), fc2=nn.Linear(60, classes)))


def untrained(seed: int) -> nn.Module:
    """A small network of a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return small().eval()


@pytest.fixture(scope="module")
def few() -> Splits:
    whole = data.load("mnist", scale="smoke")
    return Splits(whole.train.take(60), whole.validation.take(30), whole.test.take(30), whole.name, whole.requested)


@pytest.fixture
def fits(monkeypatch, few, tmp_path) -> list[dict]:
    """Puts a `fit` that trains nothing in the place of ours, and untrained networks for trained ones: the list of its calls."""
    calls: list[dict] = []

    def fit(model, splits, **settings):
        calls.append(settings)

    monkeypatch.setattr("course_lib.training.fit", fit)
    monkeypatch.setattr("course_lib.training.recipes.fit", fit)
    monkeypatch.setattr(models, "pretrained", lambda name, dataset, seed, device: untrained(seed))
    monkeypatch.setitem(models.NETWORKS, LENET, small)
    monkeypatch.setitem(models.RECIPES, (LENET, few.name), dict(epochs=12, lr=0.1, augment="shift"))
    monkeypatch.setattr(data, "load", lambda *_, **__: few)
    monkeypatch.setattr(combined, "budget", lambda scale: WORK)
    monkeypatch.setattr(kept_networks, "FOLDER", tmp_path)
    return calls


def run(kind: str, method: str = "whole", seed: int = 0, **changes) -> list[dict]:
    rate = 1 if method == "whole" else 4
    setting = dict(kind=kind, network=LENET, method=method, rate=rate, counted="bytes", lr=0.03, seeds=5) | changes
    row = ABOUT | setting | dict(seed=seed) | combined.run(setting, seed=seed, scale="smoke", device="cpu")
    return rows_of.flat([dict(rows_of.checked(row))])


# The stack


def test_all_stacks_have_equal_budgets_and_as_many_weights_at_each_step(fits):
    alone = run("stack")
    before = list(fits)
    fits.clear()
    trimmed = run("stack", "APoZ")
    steps = [
        [{key: value for key, value in call.items() if not (key == "lr" and call["epochs"] == 1)} for call in calls]
        for calls in (before, fits)
    ]  # the rate of centroids is by how many weights share one
    assert (
        steps[0] == steps[1] and len({call["seed"] for call in fits}) == len(fits) == 7
    )  # the start, two steps, two codes of each
    assert [line["epochs"] for line in trimmed] == [line["epochs"] for line in alone] == [3, 5, 6, 6, 7, 8, 8]
    for one, other in zip(alone, trimmed, strict=True):
        assert (one["stage"], one["fewer"], one.get("bits")) == (other["stage"], other["fewer"], other.get("bits"))
        if one["stage"] == "trimmed":
            assert one["bytes"] > 3.5 * other["bytes"] and one["removed"] is None and other["removed"] is not None
        else:  # biases are kept, and a trimmed network has fewer
            assert 0 <= one["nonzeros"] - other["nonzeros"] <= 60 and one["removed"] is not None
        if one["stage"] == "coded":
            assert other["bytes"] < one["bytes"]


def test_each_step_prunes_the_network_of_the_one_before(fits, few):
    run("stack", "APoZ")
    found = {}
    for stage in ("start", "5x", "10x"):
        path = kept_networks.path(LENET, few.name, "APoZ", 4, 0, stage)
        found[stage] = networks.load(path, models.build(LENET)).fc1.weight != 0
    assert found["start"].all() and (found["5x"] | ~found["10x"]).all() and found["5x"].sum() > found["10x"].sum()


def test_two_seeds_start_from_different_networks_and_draw_differently(fits):
    first, other = run("stack"), run("stack", seed=1)
    assert first[0]["baseline_loss"] != other[0]["baseline_loss"]
    assert len({call["seed"] for call in fits}) == len(fits)


def test_the_smallest_file_holds_the_network(tmp_path):
    model, bits = untrained(0), dict(conv=4, dense=3, bias=3)
    with torch.no_grad():
        for layer in (model.conv2, model.fc1, model.fc2):
            layer.weight[layer.weight.abs() < layer.weight.abs().quantile(0.9)] = 0
    quantized = deep_compression.quantize(model, bits=bits)
    file, chosen = stack.smallest_file(quantized, bits)
    storage.save(file, tmp_path / "network")
    for name, tensor in storage.load(tmp_path / "network").state_dict().items():
        assert torch.equal(tensor, quantized.state_dict()[name]), name
    others = [deep_compression.compress(quantized, bits=bits, index_bits=gaps) for gaps in stack.GAP_BITS]
    assert len(storage.encode(file)) <= min(len(storage.encode(other)) for other in others)
    assert chosen["conv1"] == 0 and chosen["fc1"] > 0  # where nothing is pruned no place has to be written


def test_a_rate_is_tried_on_the_trained_network(fits):
    [line] = run("lr", lr=0.01)
    assert [(call["lr"], call["epochs"]) for call in fits] == [(0.01, 2)] and line["epochs"] == 2


# Files at hand


def test_every_form_of_a_file_is_measured(fits):
    lines = run("files", "L1")
    forms = [at_hand.FLOAT, at_hand.HALF, *onnx_int8.FILES, *(at_hand.shared_weights(bits) for bits in at_hand.CODE_BITS)]
    assert [line["form"] for line in lines] == forms
    assert [call["epochs"] for call in fits] == [2] and all(line["epochs"] == 2 and line["removed"] is not None for line in lines)
    sizes = {line["form"]: line["bytes"] for line in lines}
    assert sizes[at_hand.HALF] == pytest.approx(sizes[at_hand.FLOAT] / 2, rel=0.1)
    assert sizes["8-bit shared weights"] > sizes["4-bit shared weights"]
    assert all(line["packed"] < line["bytes"] + 100 for line in lines)
    latencies = {line["form"]: line["latency_1"] for line in lines}
    assert latencies[at_hand.FLOAT] == latencies[at_hand.HALF] != latencies[onnx_int8.FLOAT]


def test_a_whole_network_is_not_trained(fits, monkeypatch):
    monkeypatch.setattr(onnx_int8, "write", lambda *_: {})
    lines = run("files")
    assert fits == [] and all((line["epochs"], line["removed"]) == (0, None) for line in lines)
    assert all(line["accuracy"] == line["float_accuracy"] for line in lines if line["form"] == at_hand.FLOAT)


def test_onnx_files_compute_the_network_the_int8_ones_nearly(few, tmp_path):
    model = models.pretrained(LENET, few.name, 0)
    images = few.test.images
    paths = onnx_int8.write(model, tmp_path, few.train.images)
    sizes = {form: path.stat().st_size for form, path in paths.items()}
    assert max(sizes[onnx_int8.DYNAMIC], sizes[onnx_int8.STATIC]) < 0.3 * sizes[onnx_int8.FLOAT]
    scores = {form: onnx_int8.OnnxNetwork(path)(images) for form, path in paths.items()}
    with torch.no_grad():
        own = model(images)
    assert torch.allclose(scores[onnx_int8.FLOAT], own, atol=1e-4)
    for form in (onnx_int8.DYNAMIC, onnx_int8.STATIC):
        error = (scores[form] - own).norm() / own.norm()
        assert 1e-4 < error < 0.1, form
    alone = onnx_int8.OnnxNetwork(paths[onnx_int8.STATIC])(images[:1])
    assert torch.allclose(alone, scores[onnx_int8.STATIC][:1], atol=1e-4)  # ranges are fixed, whatever else is in the batch


def test_files_hold_the_networks_that_are_measured(few, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_int8, "write", lambda *_: {})
    model = untrained(0)
    found = {form: (content, network) for form, content, network in at_hand.files(model, tmp_path, few.train.images)}
    content, network = found[at_hand.HALF]
    assert all(torch.equal(t.float(), network.state_dict()[name]) for name, t in load_tensors(content).items())
    content, network = found["4-bit shared weights"]
    (tmp_path / "network").write_bytes(content)
    state = storage.load(tmp_path / "network").state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert len(network.fc1.weight.unique()) <= 16 < len(model.fc1.weight.unique())


def test_packed_bytes_are_those_of_xz():
    content = bytes(1000)
    assert at_hand.packed(content) == len(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)) < 100


def test_without_onnx_runtime_the_error_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"ONNX Runtime, which is not installed.*pip install -e '\.\[test\]'"):
        onnx_int8.write(untrained(0), tmp_path, torch.zeros(2, 1, 28, 28))


# The tables


def made_up() -> pd.DataFrame:
    """Rows of two starts and three networks: Deep Compression alone is without loss at 10x, after trimming at 30x, too."""
    lost = {("whole", 10): 0.0, ("whole", 30): 0.5, ("APoZ", 10): 0.0, ("APoZ", 30): 0.05}
    lines = []
    for (method, fewer), loss in lost.items():
        for seed in range(3):
            base = 99.0 + seed / 10
            about = dict(
                kind="stack", network=LENET, dataset="mnist", method=method, rate=1 if method == "whole" else 4, seed=seed
            )
            about |= dict(baseline=base, validation_before=base, dense_bytes=400_000, nonzeros=100, epochs=5)
            for stage, size in (("trimmed", 300_000), ("pruned", 100_000), ("coded", 100_000 // fewer)):
                if stage != "trimmed" or fewer == 10:
                    bits = dict(bits=3) if stage == "coded" else {}
                    step = 1 if stage == "trimmed" else fewer
                    figures = dict(accuracy=base - 2 * loss - seed / 100, validation=base - loss, bytes=size + seed)
                    lines.append(about | bits | dict(stage=stage, fewer=step) | figures)
    return pd.DataFrame(lines)


def test_settings_are_chosen_by_validation_and_reported_on_test():
    found = made_up()
    best = tables.chosen(found).set_index("start")
    assert best.fewer.to_dict() == {tables.ALONE: 10, "APoZ, 4x": 30}
    assert best.lost["APoZ, 4x"] == pytest.approx(0.11)
    worse = found.assign(accuracy=50.0)  # test accuracies change no choice
    assert tables.chosen(worse).fewer.tolist() == tables.chosen(found).fewer.tolist()
    assert tables.chosen(found.assign(validation=0.0)).empty
    assert list(tables.chosen(found, margin=0.6).fewer) == [30, 30]


def test_the_table_without_loss_judges_the_test_images():
    table = tables.without_loss(made_up()).set_index("start")
    assert table.loc[tables.ALONE, "bytes"] == "10,001" and table.loc["APoZ, 4x", "bytes"] == "3,334"
    assert table.loc[tables.ALONE, "at most 0.1 points lost"] == "holds"
    assert table.loc["APoZ, 4x", "at most 0.1 points lost"] == "undecided here"  # 0.11 (0.09 to 0.13)


def test_stacks_are_compared_network_by_network():
    found = made_up()
    pairs = tables.against_alone(found).set_index(["fewer", "seed"])
    assert pairs.ahead[30].tolist() == pytest.approx([0.9] * 3) and pairs.ahead[10].tolist() == pytest.approx([0] * 3)
    assert (pairs.bytes_ratio == 1).all()
    fewer = found[~((found.method == "whole") & (found.seed == 2))]
    assert sorted(set(tables.against_alone(fewer).seed)) == [0, 1]  # only what both have
    table = tables.against_alone_table(found).set_index("weights left")
    assert table.loc["1 of 30", "better"] == "holds" and table.loc["1 of 10", "better"] == "does not hold here"


def test_the_headline_is_the_smallest_file_without_loss():
    [line] = tables.headline(made_up()).to_dict("records")
    assert set(line) == set(HEADLINE)
    assert line["rate"] == pytest.approx(400_000 / 3334, rel=1e-3) and "trimming (APoZ, 4x)" in line["published"]
    assert tables.headline(made_up().assign(validation=0.0)).empty


def test_points_lost_by_a_file_count_from_the_network_in_it():
    about = dict(kind="files", network="vgg-small", method="L1", rate=2, form=tables.SHOWN[0])
    about |= dict(baseline=90.0, float_accuracy=80.0, epochs=2)
    costs = dict(bytes=1000, packed=900, latency_1=1.0, latency_64=2.0)
    found = pd.DataFrame([about | costs | dict(seed=seed, accuracy=79.0) for seed in range(3)])
    found = pd.concat([found, found.assign(form="a form that no page shows")])
    [line] = tables.file_table(found, "vgg-small").to_dict("records")
    assert line["points lost by the file"].startswith("+1.00") and line["lost in all"] == "+11.00"
    assert tables.stages(found).empty and tables.files(made_up()).empty  # rows of one kind alone do for its tables


def test_the_figure_draws_each_start_and_its_title_names_the_smallest_file():
    fig = lesson.stages_figure(made_up())
    left, right = fig.axes
    assert "3,334 bytes, APoZ, 4x" in fig.get_suptitle() and left.get_xscale() == right.get_xscale() == "log"
    assert [text.get_text() for text in right.get_legend().get_texts()] == [tables.ALONE, "APoZ, 4x"]
    assert len(right.containers) == 2
    lesson.stages_figure(made_up().query("seed == 0"))  # one network has no interval


def test_sentences_say_what_the_table_says():
    told = lesson.summary(made_up())
    assert "APoZ, 4x: 3,334 bytes (120 times smaller), +0.11 points lost" in told
    assert told.endswith("Trimming first makes the smallest such file 3.00 times smaller.")
    assert lesson.summary(made_up().assign(validation=0.0)).startswith("No file")


# Coders that are no part of the course


def test_outside_coders_have_a_table(monkeypatch, tmp_path):
    monkeypatch.setattr(lesson, "OUTSIDE", tmp_path / "coders.json")
    assert lesson.outside_coders() is None and lesson.outside_table().empty
    about = dict(network=LENET, dataset="mnist", start="whole", accuracy_before=99.0, validation_before=99.0)

    def file(seed: int, coder: str, setting: str, size: int, validation: float) -> dict:
        return about | dict(seed=seed, coder=coder, setting=setting, bytes=size, validation=validation, accuracy=98.8)

    found = [file(seed, "zstd", "level 19", 9000, 99.0) for seed in range(3)]
    found += [file(seed, "nncodec", "qp -26", 5000, 98.95) for seed in range(3)]
    found += [file(seed, "nncodec", "qp -20", 3000, 98.8) for seed in range(3)]  # smaller, but not without loss
    found += [file(seed, "course", "4 bits", 4000, 98.8) for seed in range(3)]
    (tmp_path / "coders.json").write_text(json.dumps(dict(versions=dict(nncodec="2.1.3"), rows=found)))
    [line] = lesson.outside_table().to_dict("records")
    assert line["kB, zstd"] == "9.0" and line["kB, nncodec"] == "5.0 (qp -26)" and line["networks"] == 3
    assert line["points lost, nncodec"].startswith("+0.20")
    assert line["kB, course"] == "none"


def test_outside_coders_are_given_the_networks_that_were_kept(fits, few, monkeypatch):
    path = Path(__file__).parent / "benchmarks" / "outside_coders.py"
    spec = importlib.util.spec_from_file_location("outside_coders", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(models, "pretrained", lambda name, dataset, seed: untrained(seed))
    monkeypatch.setattr(combined, "NETWORKS", {LENET: combined.NETWORKS[LENET]})
    assert [about["start"] for about, _ in script.networks(seeds=1)] == ["whole"]
    kept_networks.keep(untrained(0), LENET, "mnist", "APoZ", 4, 0, "30x")
    assert [about["start"] for about, _ in script.networks(seeds=1)] == ["whole", "APoZ, 4x, 1 of 30 weights"]


# The grid


@pytest.mark.parametrize("scale", ["smoke", "lesson", "paper"])
def test_every_setting_has_a_name_of_its_own_and_its_kind_a_function(scale):
    found = combined.grid(scale)
    assert len({setting["name"] for setting in found}) == len(found)
    assert {setting["kind"] for setting in found} <= set(combined.KINDS)
    assert all(setting["seeds"] == (5 if setting["network"] == LENET else 3) for setting in found if setting["kind"] != "lr")
    assert set(combined.budget(scale)) == set(WORK)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind is 'wide'; known are lr"):
        combined.run(dict(kind="wide", network=LENET), seed=0, scale="smoke", device="cpu")
