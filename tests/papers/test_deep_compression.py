"""Han et al., ICLR 2016: indices by hand, gradients against autograd on plain weights, networks that survive their file."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn
from torch.nn.utils import prune

from course_lib import data, evidence, masks, models, plans, storage, surgery, training
from course_lib.drawings import deep_compression as drawings
from course_lib.experiments import compressed_files, first_stage, pruned_starts, rows, runner, size_curves
from course_lib.experiments import deep_compression as runs
from course_lib.lessons import deep_compression as lesson
from course_lib.lessons import deep_compression_claims as evidence_claims
from course_lib.lessons import deep_compression_rows as evidence_rows
from course_lib.papers import deep_compression as paper
from course_lib.papers import vector_quantization, weight_pruning
from course_lib.storage import networks
from course_lib.training import evaluate, fit, recipe

random_masks = arrays(bool, st.tuples(st.integers(0, 6), st.integers(1, 60)), elements=st.sampled_from([True] + 9 * [False]))


@pytest.fixture(scope="module")
def splits() -> data.Splits:
    whole = data.load("mnist-5k")
    return data.Splits(whole.train.take(512), whole.validation.take(256), whole.test.take(256), whole.name, whole.requested)


@pytest.fixture
def pruned() -> nn.Module:
    model = models.pretrained("lenet-300-100", "mnist-5k")
    masks.apply(model, weight_pruning.magnitude_masks(model, 0.8))
    return model


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: layer.weight.detach() for name, layer in masks.weight_layers(model).items()}


def test_the_papers_figure_2_by_hand():
    mask = torch.zeros(15, dtype=torch.bool)
    mask[[0, 3, 14]] = True  # places 1, 4 and 15
    gaps, filler = paper.relative_index(mask, 3)
    assert gaps.tolist() == [1, 3, 8, 3]
    assert filler.tolist() == [False, False, True, False]


@given(random_masks, st.integers(1, 8))
def test_places_come_back_from_gaps_with_as_few_fillers_as_can_be(values, bits):
    mask = torch.from_numpy(values)
    gaps, filler = paper.relative_index(mask, bits)
    assert ((gaps >= 1) & (gaps <= 2**bits)).all()
    places = gaps.cumsum(0) - 1
    assert places[~filler].tolist() == np.flatnonzero(values).tolist()
    distances = np.diff(np.flatnonzero(values), prepend=-1)
    assert int(filler.sum()) == int(sum(-(-distance // 2**bits) - 1 for distance in distances))


@pytest.mark.parametrize(("mask", "bits", "message"), [
    (torch.ones(3), 5, "mask is torch.float32; expected torch.bool"),
    (torch.ones(3, dtype=torch.bool), 0, "bits is 0; allowed are 1 to 16"),
    (torch.ones(3, dtype=torch.bool), 17, "bits is 17"),
])  # fmt: skip
def test_what_cannot_be_indexed_is_refused(mask, bits, message):
    with pytest.raises(ValueError, match=message):
        paper.relative_index(mask, bits)


def test_the_three_starts_by_hand():
    values = torch.tensor([9.0, 0, 1, 2, 3, 4, 5, 6])
    assert paper.initial_centroids(values, 4, "linear").tolist() == [0, 3, 6, 9]
    assert paper.initial_centroids(values, 4, "density").tolist() == [1, 3, 5, 9]  # the middles of four equal shares
    forgy = paper.initial_centroids(values, 4, "forgy", seed=1)
    assert set(forgy.tolist()) <= set(values.tolist()) and len(forgy.unique()) == 4
    assert torch.equal(forgy, paper.initial_centroids(values, 4, "forgy", seed=1))
    for arguments, message in (
        ((values, 1), "k is 1"),
        ((values, 9), "k is 9; with 8 values"),
        ((values, 4, "best"), "linear, forgy, density"),
    ):
        with pytest.raises(ValueError, match=message):
            paper.initial_centroids(*arguments)


def test_k_means_takes_a_name_or_centroids():
    values = torch.randn(500, generator=torch.Generator().manual_seed(0))
    named = paper.kmeans_1d(values, 8, "density")
    given_ = paper.kmeans_1d(values, 8, paper.initial_centroids(values, 8, "density"))
    assert all(torch.equal(a, b) for a, b in zip(named, given_, strict=True))


def test_quantized_weights_take_few_values_and_zeros_stay(pruned):
    before = copy.deepcopy(pruned.state_dict())
    quantized = paper.quantize(pruned, bits=dict(fc1=3, dense=5))
    for name, weight in weights(quantized).items():
        assert len(weight[weight != 0].unique()) <= (8 if name == "fc1" else 32)
        assert torch.equal(weight == 0, weights(pruned)[name] == 0)
        far = (weight - weights(pruned)[name]).abs().max()
        assert far <= (before[f"{name}.weight"].max() - before[f"{name}.weight"].min()) / 3
    assert torch.equal(quantized.fc1.bias, pruned.fc1.bias)
    assert all(torch.equal(before[name], value) for name, value in pruned.state_dict().items())
    only_fc2 = paper.quantize(pruned, bits=dict(fc2=2, bias=2))
    assert torch.equal(only_fc2.fc1.weight, pruned.fc1.weight)
    assert len(only_fc2.fc2.weight.unique()) <= 5 and len(only_fc2.fc2.bias.unique()) <= 5


def test_quantizing_again_changes_nothing(pruned):
    once = paper.quantize(pruned, bits=4)
    again = paper.quantize(once, bits=4)
    assert all(torch.equal(a, b) for a, b in zip(weights(once).values(), weights(again).values(), strict=True))


def test_the_gradient_of_a_centroid_is_the_sum_of_its_members(pruned, splits):
    quantized = paper.quantize(pruned, bits=3)
    weight = quantized.fc2.weight.detach().clone()
    loss = nn.functional.cross_entropy(quantized(splits.train.images), splits.train.labels)
    plain = torch.autograd.grad(loss, quantized.fc2.weight)[0]
    nn.utils.parametrize.register_parametrization(quantized.fc2, "weight", paper.SharedWeights(weight))
    centroids = quantized.fc2.parametrizations.weight.original
    assert torch.equal(quantized.fc2.weight, weight)
    loss = nn.functional.cross_entropy(quantized(splits.train.images), splits.train.labels)
    gradient = torch.autograd.grad(loss, centroids)[0]
    by_hand = torch.stack([plain[weight == value].sum() for value in centroids.detach()])
    assert torch.allclose(gradient, by_hand, rtol=1e-4, atol=1e-6)


def adam(splits: data.Splits, steps: int = 5, **settings):
    """A loop of a user's own: an optimizer with momentum, weight decay, and all parameters of the model."""

    def train(model: nn.Module) -> None:
        optimizer = torch.optim.AdamW(model.train().parameters(), **dict(lr=1e-3, weight_decay=0.1) | settings)
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(splits.train.images), splits.train.labels).backward()
            optimizer.step()

    return train


def test_training_moves_centroids_and_keeps_codes_and_zeros_whatever_trains(pruned, splits):
    quantized = paper.quantize(pruned, bits=3)
    before = copy.deepcopy(quantized.state_dict())
    for retrain in (recipe(splits, epochs=2, lr=1e-3, weight_decay=0.0, progress=False), adam(splits)):
        with torch.no_grad():
            tuned = paper.finetune_centroids(quantized, retrain, bits=3)
        assert evaluate(tuned, splits.train) > evaluate(quantized, splits.train)
        assert all(torch.equal(before[name], value) for name, value in quantized.state_dict().items())
        assert list(tuned.state_dict()) == list(before)  # no trace of the parametrization
        assert not any(hasattr(module, "parametrizations") or module.training for module in tuned.modules())
        assert all(parameter.requires_grad for parameter in tuned.parameters())
        for name, weight in weights(tuned).items():
            old = weights(quantized)[name]
            assert torch.equal(weight == 0, old == 0) and not torch.equal(weight, old)
            for value in old.unique():
                assert len(weight[old == value].unique()) == 1
    with pytest.raises(ValueError, match=r"fc1.weight has \d+ different values; 3 bits allow 8: quantize the network first"):
        paper.finetune_centroids(pruned, adam(splits), bits=3)


def test_an_interrupt_in_training_reaches_the_caller(pruned, splits):
    def interrupted(_model):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        paper.finetune_centroids(paper.quantize(pruned, bits=3), interrupted, bits=3)
    with pytest.raises(KeyboardInterrupt):
        paper.compress_network(pruned, None, sparsity=0.8, finetune=interrupted)


def narrowed() -> nn.Module:
    model = models.pretrained("vgg-small", "mnist-m")
    return surgery.narrow(model, dict(conv1=range(20), conv3=range(10, 50)), models.example_input("vgg-small"))


@pytest.mark.parametrize("name", ["lenet-5", "resnet-20", "vgg-small, narrowed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_all_three_stages_and_the_file_comes_back(name, dtype, tmp_path):
    """Training is a stand-in here: every parameter is moved a little, by its own amount."""
    fresh = name.partition(",")[0]
    model = narrowed() if "narrowed" in name else models.pretrained(name, "mnist-5k" if name == "lenet-5" else "mnist-m")
    model = model.to(dtype).train()
    before, numbers = copy.deepcopy(model.state_dict()), []

    def moved(network: nn.Module) -> None:
        numbers.append(len(numbers))
        random = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += 1e-3 * torch.randn(parameter.shape, generator=random, dtype=torch.float64).to(dtype)

    how = dict(sparsity=0.8, rounds=2, bits=dict(conv=6, dense=4), retrain=moved, finetune=moved, measure=lambda _: len(numbers))
    result = paper.compress_network(model, None, **how)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items()) and model.training
    assert not any(module.training for module in result.model.modules()) and len(numbers) == 3
    assert [row["stage"] for row in result.record] == ["prune", "prune", "quantize"]
    assert result.record[-1]["quantized"] == 2 and result.record[-1]["retrained"] == 3
    assert result.record[-1]["bytes"] == runs.file_size(result.codes)
    for layer_name, layer in masks.weight_layers(result.model).items():
        weight = layer.weight.detach()
        assert len(weight[weight != 0].unique()) <= (16 if isinstance(layer, nn.Linear) else 64)
        assert (weight == 0).double().mean() == pytest.approx(0.8, abs=0.01), layer_name
    result.save(tmp_path / "network")
    read = networks.load(tmp_path / "network", models.build(fresh).to(dtype))
    assert all(torch.equal(value, read.state_dict()[key]) for key, value in result.model.state_dict().items())
    images = models.example_input(fresh, 4).to(dtype)
    with torch.no_grad():
        assert torch.equal(read(images), result.model(images))
    assert (tmp_path / "network").stat().st_size < 0.6 * 4 * sum(p.numel() for p in model.parameters())


def test_without_training_it_is_pruning_quantizing_and_coding(pruned):
    dense = models.pretrained("lenet-300-100", "mnist-5k")
    result = paper.compress_network(dense, None, sparsity=0.8, bits=4, index_bits=4, coder="ans")
    expected = paper.quantize(pruned, bits=4)
    assert all(torch.equal(a, b) for a, b in zip(weights(result.model).values(), weights(expected).values(), strict=True))
    coded = paper.compress(pruned, bits=4, index_bits=4, coder="ans").tensors
    for name, tensor in result.codes.tensors.items():
        assert all(torch.equal(getattr(tensor, f), getattr(coded[name], f)) for f in ("codebook", "codes", "gaps"))
    assert set(result.codes.tensors) == {"fc1.weight", "fc2.weight", "fc3.weight"} and result.codes.coder == "ans"


def test_bad_bits_are_refused_before_any_training(pruned):
    def never(_model):
        raise AssertionError("trained")

    for how in (dict(bits=0), dict(index_bits=17), dict(bits=dict(fc9=4))):
        with pytest.raises(ValueError, match="bits are"):
            paper.compress_network(pruned, None, sparsity=0.5, retrain=never, **how)


@pytest.mark.parametrize("coder", storage.CODERS)
@pytest.mark.parametrize("bits", [4, dict(dense=3, bias=2), dict(fc2=5)])
def test_a_network_survives_its_file(pruned, splits, coder, bits, tmp_path):
    compressed = paper.compress(pruned, bits=bits, index_bits=dict(dense=5), coder=coder, name="lenet-300-100")
    storage.save(compressed, tmp_path / "file")
    fresh = models.build("lenet-300-100")
    fresh.load_state_dict(storage.load(tmp_path / "file").state_dict())
    quantized = paper.quantize(pruned, bits=bits)
    assert all(torch.equal(a, b) for a, b in zip(fresh.state_dict().values(), quantized.state_dict().values(), strict=True))
    assert torch.equal(fresh(splits.test.images), quantized(splits.test.images))


@pytest.mark.parametrize("name", ["vgg-small", "resnet-20"])
def test_convolutions_and_batch_norms_survive_too(name, tmp_path):
    model = models.pretrained(name, "mnist-m")
    masks.apply(model, weight_pruning.magnitude_masks(model, 0.7))
    storage.save(paper.compress(model, bits=dict(conv=5, dense=4), index_bits=4), tmp_path / "file")
    fresh = models.build(name)
    fresh.load_state_dict(storage.load(tmp_path / "file").state_dict())
    expected = paper.quantize(model, bits=dict(conv=5, dense=4)).eval()
    assert torch.equal(fresh.eval()(models.example_input(name, 4)), expected(models.example_input(name, 4)))
    assert fresh.norm1.num_batches_tracked == model.norm1.num_batches_tracked > 0


def test_the_papers_example_of_a_rate():
    """Section 3: 16 weights of 32 bits with 4 centroids are 3.2 times smaller."""
    layer = nn.Sequential(nn.Linear(4, 4, bias=False))
    layer[0].weight.data = torch.arange(16).view(4, 4) % 4 + 1.0
    coded = paper.compress(layer, bits=2, index_bits=0, coder="fixed").tensors["0.weight"]
    assert 16 * 32 / (2 * len(coded.codes) + 32 * len(coded.codebook)) == 3.2
    assert len(coded.gaps) == 0


def test_a_layer_without_survivors_and_one_without_zeros(tmp_path):
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))
    model[0].weight.data.zero_()
    storage.save(paper.compress(model, bits=4, index_bits=3), tmp_path / "file")
    read = storage.load(tmp_path / "file").state_dict()
    assert not read["0.weight"].any() and torch.equal(read["1.weight"], model[1].weight)
    assert torch.equal(read["0.bias"], model[0].bias)


def test_pruned_alone_is_exact(pruned, tmp_path):
    storage.save(first_stage.only_pruned(pruned, index_bits=5), tmp_path / "file")
    state = first_stage.restored(storage.load(tmp_path / "file"))
    assert all(torch.equal(state[name], value) for name, value in pruned.state_dict().items())
    survivors = sum(int(weight.count_nonzero()) for weight in weights(pruned).values())
    biases = 4 * 410
    assert (tmp_path / "file").stat().st_size == pytest.approx(survivors * (32 + 5) / 8 + biases, rel=0.05)


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        (0, "bits are 0 for 'dense'; allowed are 1 to 16"),
        (17, "bits are 17"),
        (2.5, "bits are 2.5"),
        (dict(fc9=4), "bits are given for 'fc9'; the model's layers are fc1, fc2, fc3, kinds dense, conv, bias"),
    ],
)
def test_bits_that_cannot_be_are_refused(pruned, bits, message):
    for call in (lambda: paper.quantize(pruned, bits=bits), lambda: paper.compress(pruned, bits=bits, index_bits=5)):
        with pytest.raises(ValueError, match=message):
            call()


def test_a_mask_that_is_not_final_and_an_unknown_coder_are_refused(pruned):
    with pytest.raises(ValueError, match="coder is 'zip'; allowed are fixed, huffman, ans"):
        paper.compress(pruned, bits=4, index_bits=5, coder="zip")
    prune.l1_unstructured(pruned.fc1, "weight", 0.9)
    with pytest.raises(ValueError, match=r"layer 'fc1' computes its weight; torch.nn.utils.prune.remove"):
        paper.compress(pruned, bits=4, index_bits=5)


def test_lamp_is_its_definition_and_keeps_that_many():
    model = nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 4))
    scores = {}
    for name, weight in weights(model).items():
        flat = weight.double().flatten().tolist()
        scores[name] = [w * w / sum(v * v for v in flat if abs(v) >= abs(w)) for w in flat]
    for rate in (1.5, 2, 5):
        plan = plans.lamp(model, rate)
        kept = sorted((score for every in scores.values() for score in every), reverse=True)[: round(55 / rate)]
        for name, every in scores.items():
            share = sum(score >= kept[-1] for score in every) / len(every)
            assert 1 - plan[name] == pytest.approx(share, abs=1e-9)


@pytest.fixture
def short_runs(monkeypatch, tmp_path) -> data.Splits:
    """Runs on few images, two rounds, one epoch each of all else; pruned networks are made in a folder of their own."""
    whole = data.load("mnist-5k")
    parts = (whole.train.take(256), whole.validation.take(100), whole.test.take(100))
    few = data.Splits(*parts, whole.name, whole.requested)
    work = {network: dict(rounds=2, final=1) for network in pruned_starts.WORK}
    monkeypatch.setattr(runs.data, "load", lambda name, **_: few)
    monkeypatch.setattr(runs, "budget", lambda scale: dict(centroids=1, pruning=work))
    monkeypatch.setattr(runs, "WIDTHS", (2, 5))
    monkeypatch.setattr(runs, "FACTORS", (1.0, 0.1))
    monkeypatch.setattr(pruned_starts, "BUILT", tmp_path)
    trained = models.pretrained("lenet-300-100", "mnist-5k")
    other = copy.deepcopy(trained)
    masks.apply(other, weight_pruning.magnitude_masks(other, 0.3))  # stands for the network of another seed
    monkeypatch.setattr(models, "pretrained", lambda name, dataset, seed=0: copy.deepcopy(other if seed else trained))
    monkeypatch.setattr(models, "checkpoint_facts", lambda name, dataset, seed=0: dict(sha256=f"of seed {seed}"))
    return few


def row_of(setting: dict, seed: int = 0) -> dict:
    about = dict(name="one", scale="smoke", seed=seed, experiment="deep_compression", seconds=1.0, device="CPU", versions={})
    about |= dict(date="2026-11-26", command="reproduce", fingerprint="")
    return dict(rows.checked(about | setting | runs.run(setting, seed=seed, scale="smoke", device="cpu")))


SETTINGS = [
    dict(kind="lr", network="lenet-300-100", lr=0.03),
    dict(kind="centroid lr", network="lenet-300-100", plan="paper", bits=2),
    dict(kind="start", network="lenet-300-100", plan="33x"),
    dict(kind="stages", network="lenet-300-100", setting="paper"),
    dict(kind="bits", network="lenet-300-100", plan="dense", start="forgy"),
    dict(kind="SVD", network="lenet-300-100", rate=16),
]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting["kind"])
def test_a_row_of_each_kind_is_complete(setting, short_runs):
    row = row_of(setting)
    assert row["dataset"] == "mnist-5k" and row["baseline"] > 90
    assert all(point["bytes"] < row["dense_bytes"] + 2000 and point["epochs"] >= 3 for point in rows.flat([row]))
    assert {setting["kind"] for setting in runs.grid("lesson")} == set(runs.KINDS) == {setting["kind"] for setting in SETTINGS}
    with pytest.raises(ValueError, match="kind is 'guess'"):
        runs.run(dict(setting, kind="guess"), seed=0, scale="smoke", device="cpu")


def test_the_file_gets_smaller_with_each_stage_and_its_parts_add_up(short_runs):
    row = row_of(dict(kind="stages", network="lenet-300-100", setting="paper"))
    size = {point["method"]: point["bytes"] for point in row["points"]}
    assert row["dense_bytes"] > size["P"] > size["P+Q"] > size["P+Q+H"] > size["P+Q+ANS"]
    coded = next(point for point in row["points"] if point["method"] == "P+Q+H")
    assert sum(coded["parts"].values()) == size["P+Q+H"]
    assert [round(layer[0]) for layer in coded["layers"].values()] == [8, 9, 26]  # the shares of the paper's table 2


def test_every_network_of_figure_6_is_trained_for_as_many_epochs_as_its_row_says(short_runs, monkeypatch):
    trained, real = [], training.fit

    def counted(model, splits, *, epochs, **settings):
        trained.append(epochs)
        return real(model, splits, epochs=epochs, **settings)

    for module in (runs, pruned_starts, training.recipes):
        monkeypatch.setattr(module, "fit", counted)
    found = {}
    for plan in ("dense", "paper", "40x"):
        trained.clear()
        points = row_of(dict(kind="start", network="lenet-300-100", plan=plan))["points"]
        found[plan] = (sum(trained), points[1]["epochs"])
        once = sum(trained) - 1  # without the last epoch, which the next row spends on the centroids
        trained.clear()
        points = row_of(dict(kind="bits", network="lenet-300-100", plan=plan, start="linear"))["points"]
        found[f"{plan}, bits"] = (once + sum(trained) / len(runs.WIDTHS), points[1]["epochs"])
    trained.clear()
    row = row_of(dict(kind="SVD", network="lenet-300-100", rate=16))
    found["SVD"] = (sum(trained) / len(row["points"]), row["epochs"])
    assert set(found.values()) == {(4, 4)}
    trained.clear()
    assert row_of(dict(kind="lr", network="lenet-300-100", lr=0.01))["epochs"] == sum(trained) == 3


def test_two_seeds_prune_networks_of_their_own(short_runs, tmp_path):
    setting = dict(kind="start", network="lenet-300-100", plan="33x")
    first, second = row_of(setting, 0), row_of(setting, 1)
    assert first["baseline_loss"] != second["baseline_loss"]
    assert len(list(tmp_path.glob("*.cnet"))) == 2
    one, two = (runs.pruned_start("lenet-300-100", short_runs, "33x", seed, dict(rounds=2, final=1)) for seed in (0, 1))
    assert not torch.equal(one.fc1.weight != 0, two.fc1.weight != 0)
    assert row_of(setting, 0)["points"][0]["accuracy"] == first["points"][0]["accuracy"]  # read from the file


def test_a_pruned_network_of_another_baseline_or_budget_is_made_anew(short_runs, tmp_path, monkeypatch):
    made = dict(rounds=2, final=1)
    runs.pruned_start("lenet-300-100", short_runs, "33x", 0, made)
    before = (tmp_path / "lenet-300-100.mnist-5k.pruned-33x.cnet").stat().st_mtime_ns
    runs.pruned_start("lenet-300-100", short_runs, "33x", 0, made)
    assert (tmp_path / "lenet-300-100.mnist-5k.pruned-33x.cnet").stat().st_mtime_ns == before
    runs.pruned_start("lenet-300-100", short_runs, "33x", 0, dict(rounds=2, final=2))
    after = (tmp_path / "lenet-300-100.mnist-5k.pruned-33x.cnet").stat().st_mtime_ns
    monkeypatch.setattr(models, "checkpoint_facts", lambda name, dataset, seed=0: dict(sha256="another"))
    runs.pruned_start("lenet-300-100", short_runs, "33x", 0, dict(rounds=2, final=2))
    assert before < after < (tmp_path / "lenet-300-100.mnist-5k.pruned-33x.cnet").stat().st_mtime_ns


def test_an_svd_of_full_rank_is_the_network_itself(pruned, splits):
    thin = runs.factorized(pruned, 235_200 / (1084 * 100))  # rank 100 in fc1, all of fc2's that are asked for
    assert [name for name, _ in thin.named_children()] == [name for name, _ in pruned.named_children()]
    assert thin.fc1[0].weight.shape == (100, 784) and thin.fc1[1].weight.shape == (300, 100)
    expected = vector_quantization.low_rank(pruned.fc1.weight.detach(), 100).decode()
    torch.testing.assert_close(thin.fc1[1].weight @ thin.fc1[0].weight, expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(thin.fc3.weight, pruned.fc3.weight)


def two_curves() -> pd.DataFrame:
    """Three choices of one curve on two networks; of the two that fit into 3 % the validation images prefer 'a', the test 'b'."""
    lines = [("a", 2.0, 98.0, 97.0), ("b", 2.5, 97.9, 99.0), ("c", 5.0, 98.5, 98.0)]
    found = [
        dict(curve="both", choice=choice, seed=seed, share=share, validation=validation + seed, accuracy=accuracy + seed)
        for seed in (1, 0)
        for choice, share, validation, accuracy in lines
    ]
    return pd.DataFrame(found)


def test_the_frontier_and_the_best_choice_look_at_validation_images_alone():
    table = two_curves()
    assert size_curves.frontier(table).choice.tolist() == ["a", "c"]
    assert set(size_curves.best_within(table, "both", 3.0).choice) == {"a"}
    assert set(size_curves.best_within(table, "both", 9.0).choice) == {"c"}
    assert size_curves.best_within(table, "both", 1.0) is None


def test_differences_are_paired_by_network_and_refused_for_others():
    one = pd.DataFrame(dict(seed=[1, 0, 2], accuracy=[98.0, 97.0, 99.0]))
    other = pd.DataFrame(dict(seed=[0, 2, 1], accuracy=[96.0, 99.5, 98.0]))
    assert size_curves.paired(one, other).to_dict() == {0: 1.0, 1: 0.0, 2: -0.5}
    for wrong in (other[:2], other.assign(seed=[0, 2, 3]), other.assign(seed=[0, 0, 2])):
        with pytest.raises(ValueError, match="expected the same"):
            size_curves.paired(one, wrong)


def test_a_claim_of_several_parts_has_the_verdict_of_its_weakest():
    holds, fails, open_ = (evidence.verdict(values) for values in ([1, 1.1], [-1, -1.1], [1, -1]))
    weakest, within = evidence.weakest_of, evidence_claims.within
    assert weakest([holds, open_]) is open_ and weakest([open_, fails, holds]) is fails and weakest([holds]) is holds
    narrowly = evidence.verdict([0.1, 0.11])
    assert weakest([holds, narrowly]) is narrowly  # of equal labels, the one that is nearest to its margin
    assert within([24.9, 25.1], 20, 30).label == evidence.HOLDS
    for outside in ([34.9, 35.1], [15.1, 14.9]):
        assert within(outside, 20, 30).label == evidence.DOES_NOT


def test_the_recorded_rows_are_of_five_networks_and_decide_few_claims():
    found = runner.recorded("deep-compression", scale="lesson")
    whole = found[found.kind.isin(["stages", "bits", "start"])]
    assert (whole.groupby(["name", "method"], sort=False).seed.nunique() == 5).all()
    assert len(evidence_claims.paper_claims(found)) <= 8 and len(evidence_claims.our_claims(found)) <= 5
    assert len(evidence_rows.stage_table(found)) == 8 and len(evidence_rows.layers(found)) == 7


def test_the_accounts_of_bytes_and_of_errors_agree_with_the_rows():
    found = runner.recorded("deep-compression", scale="lesson")
    account = evidence_rows.account(found).set_index(["network", "part"])
    assert float(account.loc[("LeNet-5", "sum"), "kB, paper"]) == pytest.approx(0.0273 * 4 * 431, rel=0.01)
    parts = account.loc["LeNet-300-100", "kB, here"].drop(["sum", "the paper's total"]).astype(float)
    assert parts.sum() == pytest.approx(float(account.loc[("LeNet-300-100", "sum"), "kB, here"]), abs=0.03)
    errors = list(evidence_rows.whole_errors(found).values())
    two_bits = size_curves.by_bits(found, plan="dense", start="linear", method="trained")[2]
    cost = size_curves.quantization_cost(found, "dense")[2]
    assert np.allclose(100 - two_bits - cost, errors[1]) and not np.allclose(errors[0], errors[1])
    rates = evidence_rows.centroid_rates(found)
    assert len(rates) == 5 and rates.columns[1] == "rate times s: 3"


def test_the_published_sizes_are_those_of_the_published_rates():
    for stages in lesson.PUBLISHED.values():
        dense = float(stages["dense"][0])
        for size, rate, *_ in stages.values():
            if size and rate:
                assert dense / float(size.rstrip("*")) == pytest.approx(float(rate.split("x")[0]), rel=0.04)


def written(symbols: torch.Tensor) -> str:
    """The bits of Huffman's stream, the last byte filled with zeros."""
    return "".join(f"{byte:08b}" for byte in storage.CODERS["huffman"].encode(symbols, 16)[1])


def test_the_ten_drawn_weights_are_coded_as_the_library_codes_them():
    kept = torch.tensor([value if abs(value) > 0.5 else 0.0 for value in drawings.TEN])
    layer = nn.Linear(10, 1, bias=False)
    layer.weight.data = kept[None]
    coded = paper.compress(layer, bits=1, index_bits=drawings.GAP_BITS).tensors["weight"]
    assert torch.allclose(coded.decode()[0], torch.tensor(drawings.SHARED))
    drawn = drawings.entries()
    assert (coded.gaps.tolist(), coded.codes.tolist()) == (drawn.gaps, drawn.codes)
    for words, symbols in ((drawings.GAP_WORDS, coded.gaps), (drawings.CODE_WORDS, coded.codes)):
        assert written(symbols - symbols.min()).startswith("".join(words[one] for one in symbols.tolist()))


def test_the_drawn_matrix_has_the_words_of_the_library():
    values = torch.from_numpy(drawings.SHARED_MATRIX)
    codes = values[values != 0].unique(return_inverse=True)[1]
    gaps, filler = paper.relative_index(values != 0, 3)
    assert not filler.any()
    before = torch.from_numpy(drawings.TRAINED_MATRIX)
    assert before[values == 0].abs().max() < before[values != 0].abs().min()  # pruned by magnitude
    for shared in values.unique():
        assert before[values == shared].mean() == pytest.approx(float(shared), abs=0.1)
    for words, symbols in ((drawings.MATRIX_CODE_WORDS, codes), (drawings.MATRIX_GAP_WORDS, gaps)):
        assert written(symbols - symbols.min()).startswith("".join(words[one] for one in symbols.tolist()))


def test_the_drawn_centroids_follow_the_sums_of_gradients():
    run = drawings.regression()
    errors = [state.error for state in (run.start, run.clustered, *run.trained)]
    assert errors == sorted(errors, reverse=True)
    sums = [run.clustered.gradients[run.codes == code].sum() for code in range(drawings.K)]
    assert run.trained[0].centroids == pytest.approx(run.clustered.centroids - drawings.RATE * np.array(sums))
    centroids, codes = paper.kmeans_1d(torch.from_numpy(run.weights).float(), drawings.K)
    assert run.clustered.centroids == pytest.approx(centroids.numpy(), abs=1e-5) and codes.tolist() == run.codes.tolist()


def test_bits_by_kind_code_one_kind_alone():
    model, split = models.build("lenet-5").eval(), data.load("mnist-5k").test.take(200)
    table = lesson.bits_by_kind(model, split, (1, 2))
    for kind, name in (("conv", "convolutions"), ("dense", "dense layers")):
        alone = [runs.error(paper.quantize(model, bits={kind: bits}), split) for bits in (1, 2)]
        assert table[f"error, {name} coded (%)"].tolist() == alone
    sizes = lesson.sizes_by_kind(model, [(2, 1), (1, 2)])
    assert sizes[2, 1] == len(storage.encode(paper.compress(model, bits=dict(conv=2, dense=1), index_bits=5)))
    assert sizes[1, 2] > sizes[2, 1]  # most weights are in dense layers


def test_the_tables_of_a_file_add_up(pruned, splits):
    quantized = paper.quantize(pruned, bits=3)
    files = {coder: paper.compress(quantized, bits=3, index_bits=5, coder=coder) for coder in storage.CODERS}
    bound = 0.0
    for tensor in files["fixed"].tensors.values():
        for stream in [tensor.codes, tensor.gaps] if isinstance(tensor, storage.CodedTensor) else []:
            shares = np.unique(stream.numpy(), return_counts=True)[1] / len(stream)
            bound -= len(stream) * (shares * np.log2(shares)).sum() / 8
    for line, (coder, file) in zip(lesson.bound_table(files).to_dict("records"), files.items(), strict=True):
        taken = int(line["bytes of codes and gaps"].replace(",", ""))
        assert line["coder"] == coder and line["above the entropy"] == f"{taken / bound - 1:+.1%}"
        parts = compressed_files.inspect(file).filter(like="bytes of").loc[lambda t: t.index.str.endswith("weight")]
        assert taken == parts["bytes of codes"].sum() + parts["bytes of gaps"].sum()
    five = lesson.gap_table(quantized, 3, (5, 6), "fc1").iloc[0]
    assert five["bytes of the file"] == f"{len(storage.encode(files['huffman'])):,}"
    table = lesson.cost_table({"dense": (pruned, 1000), "coded": (quantized, 100)}, splits.test)
    assert table["times smaller"].tolist() == ["1.0", "10.0"] and table["MACs"].nunique() == 1
    assert table["test error (%)"][1] == f"{100 - 100 * evaluate(quantized, splits.test):.2f}"


def on_gpu(splits: data.Splits) -> data.Splits:
    parts = (data.Split(split.images.cuda(), split.labels.cuda()) for split in (splits.train, splits.validation, splits.test))
    return data.Splits(*parts, splits.name, splits.requested)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_quantizes_and_trains_the_centroids_alike(pruned, splits, tmp_path):
    model, there = copy.deepcopy(pruned).cuda(), on_gpu(splits)
    quantized, expected = paper.quantize(model, bits=4), paper.quantize(pruned, bits=4)
    for name, weight in weights(quantized).items():
        assert weight.is_cuda
        torch.testing.assert_close(weight.cpu(), weights(expected)[name], atol=1e-5, rtol=1e-5)
    how = dict(epochs=1, lr=1e-4, weight_decay=0.0, progress=False)
    tuned = paper.finetune_centroids(quantized, lambda network: fit(network, there, **how), bits=4)
    on_cpu = paper.finetune_centroids(expected, lambda network: fit(network, splits, **how), bits=4)
    for name, weight in weights(tuned).items():
        assert weight.is_cuda and len(weight[weight != 0].unique()) <= 16
        assert torch.equal(weight.cpu() == 0, weights(expected)[name] == 0)
        torch.testing.assert_close(weight.cpu(), weights(on_cpu)[name], atol=1e-2, rtol=5e-2)  # trained in bfloat16
    storage.save(paper.compress(tuned, bits=4, index_bits=5), tmp_path / "network")
    stored = storage.load(tmp_path / "network").state_dict()
    assert all(torch.equal(stored[name], value.cpu()) for name, value in tuned.state_dict().items())
    result = paper.compress_network(copy.deepcopy(pruned).cuda(), None, sparsity=0.8, bits=4)
    assert all(value.is_cuda for value in result.model.state_dict().values())
    result.save(tmp_path / "result")
    read = networks.load(tmp_path / "result", models.build("lenet-300-100")).state_dict()
    assert all(torch.equal(read[name], value.cpu()) for name, value in result.model.state_dict().items())


def test_of_each_rank_figure_6_has_the_learning_rate_that_validation_prefers():
    about = dict(network="lenet-300-100", kind="SVD", method="SVD", start=None, plan=None, bits=1.0, epochs=3, dense_bytes=100)
    figures = [(4, 0.03, 90, 99), (4, 0.01, 95, 91), (8, 0.03, 80, 70), (8, 0.01, 75, 80)]
    table = pd.DataFrame(
        about | dict(rate=rate, lr=lr, validation=validation + seed, accuracy=accuracy, bytes=100 / rate, seed=seed)
        for rate, lr, validation, accuracy in figures for seed in (0, 1)
    )  # fmt: skip
    found = size_curves.by_size(table)
    assert found.groupby("choice").accuracy.mean().to_dict() == {"rank for 4x": 91, "rank for 8x": 70}
    assert found.groupby("choice").seed.apply(list).tolist() == [[0, 1], [0, 1]]
