"""The runs of the smallest files: the same integers in every file, and arms that differ in one step."""

import json
import math

import pytest
import torch

from course_lib import data, distillation, models, smallest, storage
from course_lib.data import Splits
from course_lib.experiments import fingerprints, rows
from course_lib.experiments import smallest as runs
from course_lib.experiments import smallest_tables as tables
from course_lib.experiments.runner import HEADLINE

ABOUT = dict(
    experiment="smallest", scale="smoke", seed=0, seconds=1.0, device="CPU", versions={}, date="2026-01-01", command="none",
    fingerprint="0",
)  # fmt: skip
SIZES = {
    "dense": dict(network="lenet-300-100", trimmed_to=dict(fc1=12, fc2=9), keeps=[400, 300], longer=1),
    "small": dict(network="lenet-5", trimmed_to=dict(conv1=3, conv2=5, fc1=9), keeps=[400, 300], longer=1),
}
ABLATED = SIZES["dense"] | dict(keeps=[300])
WORK = dict(distilling=1, pruning=2, further=2, quantizing=1, copies=1, teachers=1)


@pytest.fixture(scope="module")
def few() -> Splits:
    whole = data.load("mnist", scale="smoke")
    return Splits(whole.train.take(400), whole.validation.take(60), whole.test.take(60), whole.name, whole.requested)


@pytest.fixture
def short(monkeypatch, tmp_path, few):
    """A short budget and few images; what is kept on disk lies in the test's folder."""
    monkeypatch.setattr(runs, "budget", lambda scale: dict(file=WORK, ablation=WORK, copies=1, teachers=1))
    monkeypatch.setattr(smallest, "EVERY", 2)
    for name in ("LOGITS", "FILES"):
        monkeypatch.setattr(runs, name, tmp_path / name)
    monkeypatch.setattr(data, "load", lambda *args, **kwargs: few)


def row(setting: dict) -> dict:
    return rows.checked(setting | runs.run(setting, seed=0, scale="smoke", device="cpu") | ABOUT)


def narrow() -> torch.nn.Module:
    return smallest.trim(models.build("lenet-300-100").eval(), dict(fc1=20, fc2=15), torch.zeros(1, 1, 28, 28))


def integers(seed: int = 0) -> storage.CompressedNetwork:
    """A file of random levels, most of them zero."""
    torch.manual_seed(seed)
    tensors = {}
    for name, tensor in narrow().state_dict().items():
        levels = torch.randint(-3, 4, tensor.shape) * (torch.rand(tensor.shape) < (0.05 if tensor.dim() > 1 else 1))
        tensors[name] = storage.CodedTensor(
            tensor.shape, torch.arange(-3, 4).float() / 4, levels.flatten().int() + 3, smallest.NO_GAPS, 0
        )
    return storage.CompressedNetwork("lenet-300-100", tensors, "context")


@pytest.mark.parametrize("size", ["dense", "small"])
def test_a_file_is_measured_after_each_step(short, size):
    setting = dict(kind="file", size=size, name=f"file {size}") | SIZES[size]
    found = rows.frame([row(setting)])
    again = ["pruned", "quantized", "coded"]
    assert found.stage.tolist() == ["trained", "trimmed", "distilled", *again, *again]
    assert found.epochs.tolist() == [0, 0, 1, 3, 4, 4, 5, 6, 6]
    coded = found[found.stage == "coded"]
    assert (coded.nonzeros.to_numpy() <= [430, 330]).all(), "400 and 300 weights, and biases"
    assert (coded.bytes <= coded.huffman).all() and (coded.bytes <= coded.xz).all()
    for keep, bytes_, accuracy in zip(coded.keep, coded.bytes, coded.accuracy, strict=True):
        path = runs.FILES / f"{setting['network']}.{found.dataset[0]}.{keep:.0f}.seed-0.cnet"
        assert path.stat().st_size == bytes_
        model = models.build(setting["network"])
        for name, tensor in storage.load(path).state_dict().items():
            layer, kind = name.split(".")
            setattr(model.get_submodule(layer), kind, torch.nn.Parameter(tensor))
        assert rows.percent(model.eval(), data.load("mnist").test) == accuracy
    assert len(tables.step_table(found, size)) == len(found) and len(tables.coder_table(found)) == len(tables.CODERS)


def test_the_whole_pipeline_and_a_replaced_step_are_compared_by_network(short):
    settings = [dict(kind="ablation", arm=arm, name=arm) | ABLATED for arm in list(runs.ARMS)[:5]]
    found = rows.frame([row(setting) for setting in settings])
    assert found.epochs.nunique() == 1, "equal budgets"
    compared = tables.ablations(found).set_index("arm")
    assert (compared.loc[tables.WHOLE, ["worse", "more"]] == 0).all()
    arm = list(runs.ARMS)[4]
    assert compared.worse[arm] == pytest.approx(float(found.accuracy[0] - found.accuracy[4]))
    shown = tables.ablation_table(found).pipeline.tolist()
    assert shown[0] == tables.WHOLE and sorted(shown) == sorted(list(runs.ARMS)[:5])
    assert compared.worse[1:].is_monotonic_decreasing, "the worst replacement first"


@pytest.mark.parametrize("arm", list(runs.ARMS)[5:])
def test_every_arm_runs(short, arm):
    figures = row(dict(kind="ablation", arm=arm, name=arm) | ABLATED)
    assert figures["epochs"] == (6 if "twice" in arm else 4) and figures["nonzeros"] <= 330


@pytest.mark.parametrize("coder", ["huffman", "ans"])
def test_gaps_hold_the_same_integers(coder):
    file = integers()
    other = runs.with_gaps(file, coder).state_dict()
    assert all(torch.equal(tensor, other[name]) for name, tensor in file.state_dict().items())


def test_what_is_decoded_is_what_was_coded():
    file = integers()
    state = runs.decoded(narrow(), file).state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in file.state_dict().items())


def test_the_entropy_is_a_bound_without_contexts():
    file = integers()
    counts = [torch.bincount(tensor.codes).tolist() for tensor in file.tensors.values()]
    bits = sum(-count * math.log2(count / sum(of)) for of in counts for count in of if count)
    assert sum(map(runs._entropy, file.tensors.values())) == pytest.approx(bits, rel=1e-4)


def test_logits_are_kept_and_are_the_mean_of_the_teachers(short, few, monkeypatch):
    teachers = [models.build("lenet-5") for _ in range(3)]
    monkeypatch.setattr(models, "pretrained", lambda name, dataset, seed: teachers[seed])
    given = runs.examples(few, dict(copies=1, teachers=3), seed=4)
    expected = distillation.examples(teachers, few.train, copies=1, seed=4)
    torch.testing.assert_close(given.logits, expected.logits)
    assert torch.equal(given.images, expected.images)
    monkeypatch.setattr(distillation, "logits_of", None)
    again = runs.examples(few, dict(copies=1, teachers=3), seed=4)
    assert torch.equal(again.logits, given.logits)


def test_pruned_weights_may_grow_back():
    state = {"exp_avg": torch.tensor([0.0, 1.0, 0.0]), "exp_avg_sq": torch.tensor([1.0, 1.0, 1.0])}
    scores = runs.with_regrowth(torch.tensor([0.001, 0.0, 0.0]), state, torch.tensor([1.0, 0.0, 0.0]))
    assert scores[1] > scores[0] > scores[2] == 0


def test_the_pipeline_is_part_of_the_fingerprint(monkeypatch):
    setting = runs.grid("lesson")[0]
    before = fingerprints.fingerprint("course_lib.experiments.smallest", setting, "lesson")
    read = fingerprints._closure("course_lib.experiments.smallest", "ablation")
    assert any("INSTALMENTS" in source for source in read) and any("TEMPERATURE" in source for source in read)
    assert before == fingerprints.fingerprint("course_lib.experiments.smallest", json.loads(json.dumps(setting)), "lesson")


def test_names_are_unique_and_an_unknown_kind_is_refused():
    names = [setting["name"] for setting in runs.grid("lesson")]
    assert len(set(names)) == len(names) == len(runs.ARMS) + len(runs.SIZES) + 1, "and ResNet-20"
    with pytest.raises(ValueError, match="kind is 'other'; known are file, ablation, residual"):
        runs.run(dict(kind="other"), seed=0, scale="smoke", device="cpu")


def test_the_headline_is_that_of_a_published_size():
    line = dict(kind="file", stage="coded", keep=1870, dataset="mnist", bytes=1500, dense_bytes=1_724_320, baseline=99.4)
    found = rows.frame([line | dict(seed=seed, accuracy=99.2 + seed / 10, validation=99.0) for seed in range(2)])
    table = tables.headline(found)
    assert tuple(table.columns) == tuple(name for name in HEADLINE) and table.lost[0] == pytest.approx(0.15)
