"""Gong et al. 2014: bits by hand, errors against independent optima, files that are as large as they say."""

import copy

import kmeans1d
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor, nn

from course_lib import data, evidence, models, training
from course_lib.drawings import vector_quantization as drawings
from course_lib.experiments import quantization_tables as tables
from course_lib.experiments import rate_and_loss, rows, runner
from course_lib.experiments import vector_quantization as runs
from course_lib.lessons import vector_quantization as live
from course_lib.lessons import vector_quantization_claims as judged
from course_lib.lessons import vector_quantization_rows as lesson
from course_lib.papers import vector_quantization as paper
from course_lib.storage import networks
from course_lib.storage.codes import pack, unpack

CODERS = {
    "low rank": lambda w: paper.low_rank(w, 2),
    "sign": paper.binarize,
    "scaled sign": lambda w: paper.binarize(w, scaled=True),
    "scalar": lambda w: paper.scalar_kmeans(w, 3),
    "product": lambda w: paper.product_quantize(w, 4, 2),
    "product of the transposed": lambda w: paper.product_quantize(w, 4, 2, axis=0),
    "residual": lambda w: paper.residual_quantize(w, 2, 3),
    "residual of the transposed": lambda w: paper.residual_quantize(w, 2, 3, axis=0),
}
matrices = arrays(
    np.float32, st.tuples(st.sampled_from([4, 6, 8]), st.sampled_from([4, 6, 10])), elements=st.floats(-9, 9, width=16)
)


def weight(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("low rank", 32 * 2 * (4 + 4 + 1)),
        ("sign", 16),
        ("scaled sign", 16 + 32),
        ("scalar", 16 * 2 + 3 * 32),  # three values take two bits
        ("product", 2 * 4 * 2 + 2 * 4 * 2 * 32),  # 2 blocks of 4 codes of 2 bits; 2 codebooks of 4 pairs
        ("residual", 3 * 4 * 1 + 3 * 2 * 4 * 32),  # 3 stages of 4 codes of 1 bit; 3 codebooks of 2 rows
    ],
)
def test_bits_of_a_4_by_4_matrix_by_hand(name, bits):
    coded = CODERS[name](weight(4, 4))
    assert coded.bits == bits
    assert coded.compression_rate == pytest.approx(16 * 32 / bits)


def test_the_rates_are_the_formulas():
    w, (m, n, k, s, t, r) = weight(64, 48), (64, 48, 16, 12, 3, 5)
    assert paper.binarize(w).compression_rate == 32
    assert paper.scalar_kmeans(w, k).compression_rate == 32 * m * n / (m * n * 4 + 32 * k)
    assert paper.product_quantize(w, k, s).compression_rate == 32 * m * n / (32 * k * n + m * s * 4)
    assert paper.product_quantize(w, k, 16, axis=0).compression_rate == 32 * m * n / (32 * k * m + n * 16 * 4)
    assert paper.residual_quantize(w, k, t).compression_rate == 32 * m * n / (t * (32 * k * n + m * 4))
    assert paper.low_rank(w, r).compression_rate == m * n / (r * (m + n + 1))


@given(matrices)
def test_a_low_rank_error_is_that_of_eckart_and_young(values):
    w = torch.from_numpy(values)
    singular = np.linalg.svd(values.astype(float), compute_uv=False)
    error = (paper.low_rank(w, 3).decode() - w).square().sum().item()
    assert error == pytest.approx(np.square(singular[3:]).sum(), abs=1e-3)


@given(matrices)
def test_scalar_kmeans_reaches_the_optimum(values):
    clusters, centroids = kmeans1d.cluster(values.flatten().tolist(), 4)
    best = np.square(values.flatten() - np.array(centroids)[clusters]).sum()
    error = (paper.scalar_kmeans(torch.from_numpy(values), 4).decode() - torch.from_numpy(values)).square().sum().item()
    assert error <= best * (1 + 1e-4) + 1e-5


def test_signs_and_their_least_squares_scale():
    w = torch.tensor([[1.0, -3.0], [0.0, -0.5]])
    assert paper.binarize(w).decode().tolist() == [[1, -1], [1, -1]]  # zero counts as positive
    scaled = paper.binarize(w, scaled=True).decode()
    signs = torch.where(w >= 0, 1.0, -1.0)
    best = torch.linalg.lstsq(signs.flatten()[:, None], w.flatten()[:, None]).solution.item()
    assert scaled[0, 0] == pytest.approx(w.abs().mean()) == pytest.approx(best)


@given(matrices, st.sampled_from(sorted(CODERS)))
def test_coding_what_was_decoded_changes_nothing(values, name):
    if name == "sign":  # sign(sign(W)) = sign(W) exactly, checked above; scale 1 is not the matrix's own
        values = np.sign(values) + (values == 0)
    once = CODERS[name](torch.from_numpy(values)).decode()
    again = CODERS[name](once).decode()
    best = 1e-3 * (1 + once.square().sum().sqrt().item())
    if not name.startswith("residual"):  # stages start anew from other seeds: no fixed point
        assert torch.allclose(once, again, atol=best)


@pytest.mark.parametrize("name", ["product", "residual"])
def test_axis_0_is_the_transposed_matrix(name):
    code = {"product": lambda w, axis: paper.product_quantize(w, 4, 3, axis=axis),
            "residual": lambda w, axis: paper.residual_quantize(w, 4, 2, axis=axis)}[name]  # fmt: skip
    w = weight(12, 20)
    assert torch.equal(code(w, 0).decode(), code(w.T.contiguous(), 1).decode().T)
    assert code(w, 0).bits == code(w.T, 1).bits


def test_product_quantization_of_single_columns_is_a_scalar_codebook_a_column():
    w = weight(40, 6)
    coded = paper.product_quantize(w, 4, 6).decode()
    for column in range(6):
        best = paper.scalar_kmeans(w[:, column : column + 1], 4).decode()[:, 0]
        errors = [(guess - w[:, column]).square().sum().item() for guess in (coded[:, column], best)]
        assert errors[1] <= errors[0] * (1 + 1e-5) <= 1.5 * errors[1]


@given(matrices, st.integers(2, 4), st.integers(0, 3))
def test_the_residual_falls_with_every_stage(values, k, seed):
    w = torch.from_numpy(values)
    coded = paper.residual_quantize(w, k, 6, seed=seed)
    stages = torch.stack([c[code.long()] for c, code in zip(coded.codebooks, coded.codes, strict=True)])
    errors = [w.square().sum().item(), *(w - stages.cumsum(0)).square().sum((1, 2)).tolist()]
    assert all(after <= before * (1 + 1e-5) + 1e-6 for before, after in zip(errors, errors[1:], strict=False))
    assert torch.allclose(coded.decode(), stages.sum(0))


@pytest.mark.parametrize("name", CODERS)
def test_a_convolution_is_a_matrix(name):
    w = weight(8, 2, 3, 1)
    coded = CODERS[name](w)
    assert coded.decode().shape == w.shape
    assert torch.equal(coded.decode().flatten(1), CODERS[name](w.flatten(1)).decode())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: paper.scalar_kmeans(w, 1), "k is 1; with 96 vectors to cluster it can be 2 to 96"),
        (lambda w: paper.scalar_kmeans(w, 97), "k is 97"),
        (lambda w: paper.product_quantize(w, 9, 4), "k is 9; with 8 vectors to cluster it can be 2 to 8"),
        (lambda w: paper.product_quantize(w, 2, 5), "segments is 5; 12 columns can be cut into 1, 2, 3, 4, 6, 12 equal blocks"),
        (lambda w: paper.product_quantize(w, 2, 0), "segments is 0; 12 columns"),
        (lambda w: paper.product_quantize(w, 2, 3, axis=0), "segments is 3; 8 rows can be cut into 1, 2, 4, 8 equal blocks"),
        (lambda w: paper.product_quantize(w, 2, 2, axis=2), "axis is 2; allowed are 1"),
        (lambda w: paper.residual_quantize(w, 9, 1), "k is 9"),
        (lambda w: paper.residual_quantize(w, 2, 0), "stages is 0; allowed are 1 and above"),
        (lambda w: paper.low_rank(w, 9), "rank is 9; a 8 x 12 matrix allows 1 to 8"),
        (lambda w: paper.binarize(w * float("nan")), "weight holds NaN"),
        (lambda w: paper.scalar_kmeans(w[0], 2), r"weight has shape \(12,\); expected a matrix"),
        (lambda w: paper.low_rank(w[:0], 2), r"weight has shape \(0, 12\)"),
    ],
)
def test_the_impossible_is_refused_with_what_is_possible(call, message):
    with pytest.raises(ValueError, match=message):
        call(weight(8, 12))


@given(matrices, st.sampled_from(sorted(CODERS)))
def test_packed_codes_give_back_the_same_tensor(values, name):
    coded = CODERS[name](torch.from_numpy(values))
    read = unpack(*pack(coded))
    assert type(read) is type(coded) and torch.equal(read.decode(), coded.decode())
    assert read.bits == coded.bits and read.shape == coded.shape
    assert all(
        torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(read.tensors().values(), coded.tensors().values(), strict=True)
    )


FORMS = {
    "sign": paper.binarize,
    "scalar": lambda w: paper.scalar_kmeans(w, 32),
    "product": lambda w: runs.product(w, 16, 4),
    "residual": lambda w: paper.residual_quantize(w, 8, 4, axis=0),
    "low rank": lambda w: paper.low_rank(w, 8),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_file_of_a_network_is_as_large_as_its_bits_and_gives_the_same_outputs(form, tmp_path):
    result = paper.quantize(models.pretrained("lenet-300-100", "mnist-5k"), FORMS[form])
    result.save(tmp_path / "network")
    bits = sum(row["bits"] for row in result.record) + 32 * (300 + 100 + 10)  # biases stay floats
    assert (tmp_path / "network").stat().st_size == pytest.approx(bits / 8, abs=1_800)  # the header of a dozen tensors
    images = data.load("mnist-5k").test.images[:100]
    loaded = networks.load(tmp_path / "network", models.build("lenet-300-100"))
    assert torch.equal(loaded(images), result.model(images))


def test_a_file_of_codes_that_is_damaged_is_refused_by_name(tmp_path):
    path = tmp_path / "network"
    paper.quantize(nn.Sequential(nn.Linear(12, 8)), lambda w: paper.scalar_kmeans(w, 4)).save(path)
    whole = path.read_bytes()
    for damaged in (whole[:-3], whole[:40], b"", whole.replace(b"ScalarQuantized", b"ScalarQuantizes")):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="network is damaged"):
            networks.load(path, nn.Sequential(nn.Linear(12, 8)))


# The loop


def mixed() -> nn.Module:
    """A convolution with a batch norm, and two dense layers."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(576, 16), nn.ReLU(), nn.Linear(16, 10)
    )


def four(w: Tensor) -> paper.Quantized:
    return paper.scalar_kmeans(w, 4)


def test_the_dense_layers_are_coded_as_by_hand_and_the_network_is_left():
    model = mixed().train()
    before = copy.deepcopy(model.state_dict())
    result = paper.quantize(model, four)
    assert list(result.codes) == ["4.weight", "6.weight"] and not result.model.training and model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    by_hand = paper.decoded(model, {name: four(model.get_submodule(name).weight) for name in ("4", "6")}).state_dict()
    assert all(torch.equal(by_hand[name], value) for name, value in result.model.state_dict().items())
    row = result.record[0]
    weight, coded = model[4].weight.detach().numpy().astype(float), result.codes["4.weight"].decode().numpy()
    assert (
        row["layer"] == "4"
        and row["bits"] == 16 * 576 * 2 + 4 * 32
        and row["compression_rate"] == pytest.approx(32 * 16 * 576 / row["bits"])
    )
    assert row["error"] == pytest.approx(np.square(coded - weight).sum() / np.square(weight).sum())
    assert [row["layer"] for row in paper.quantize(model, four, layers=["6", "0"]).record] == ["0", "6"]


OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-2),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=1e-2),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_codes_stay_to_the_last_bit_while_the_rest_is_trained(optimizer, tmp_path):
    split = data.load("mnist-5k").train.take(64)
    seen = []

    def train(network: nn.Module) -> None:
        network.train()
        how = OPTIMIZERS[optimizer](network.parameters())
        for _ in range(4):
            how.zero_grad(set_to_none=False)
            nn.functional.cross_entropy(network(split.images), split.labels).backward()
            how.step()
            seen.append(network[4].weight.detach().clone())

    plain = paper.quantize(mixed(), four)
    result = paper.quantize(mixed(), four, retrain=train, measure=lambda network: training.evaluate(network, split))
    for name, coded in result.codes.items():
        assert torch.equal(coded.decode(), result.model.get_parameter(name))
        assert torch.equal(coded.decode(), plain.codes[name].decode())
    assert all(torch.equal(weight, seen[0]) for weight in seen)
    for name in ("0.weight", "1.weight", "1.running_mean", "4.bias"):
        assert not torch.equal(result.model.state_dict()[name], plain.model.state_dict()[name])
    assert all(parameter.requires_grad for parameter in result.model.parameters()) and not result.model.training
    assert [set(row) >= {"quantized", "retrained"} for row in result.record] == [True, True]
    assert result.record[0]["quantized"] == result.record[0]["retrained"]
    assert result.record[1]["retrained"] == training.evaluate(result.model, split)
    result.save(tmp_path / "network")
    assert torch.equal(networks.load(tmp_path / "network", mixed())(split.images), result.model(split.images))


def test_the_loop_names_the_layer_that_cannot_be_coded():
    model = mixed()
    for call, message in (
        (lambda: paper.quantize(model, lambda w: paper.product_quantize(w, 16, 4)), "layer '6': k is 16; with 10 vectors"),
        (lambda: paper.quantize(model, four, layers=["1"]), "layers names '1'.*layers are 0, 4, 6"),
        (lambda: paper.quantize(model[:3], four), "layers is empty"),
        (lambda: paper.quantize(model, lambda w: w), "code gives Tensor for layer '4'"),
        (
            lambda: paper.quantize(nn.Linear(4, 4, bias=False), four, retrain=lambda network: None),
            "every parameter.*nothing is left to train",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("form", FORMS)
def test_cuda_codes_stay_and_the_file_is_loaded_on_the_cpu(form, tmp_path):
    splits = data.load("mnist-5k", device="cuda")
    model = models.pretrained("lenet-300-100", "mnist-5k").cuda()
    retrain = training.recipe(splits, epochs=1, lr=0.01, progress=False)
    result = paper.quantize(model, FORMS[form], retrain=retrain)
    assert all(value.is_cuda for value in result.model.state_dict().values())
    assert all(torch.equal(coded.decode(), result.model.get_parameter(name)) for name, coded in result.codes.items())
    result.save(tmp_path / "network")
    loaded, images = networks.load(tmp_path / "network", models.build("lenet-300-100")), splits.test.images[:100]
    torch.testing.assert_close(loaded(images.cpu()), result.model(images).cpu(), rtol=1e-3, atol=1e-3)


def test_a_decoded_network_computes_with_the_codes_and_the_old_one_is_left():
    model = models.pretrained("lenet-5", "mnist-5k")
    before = copy.deepcopy(model.state_dict())
    layers = {"fc1": paper.scalar_kmeans(model.fc1.weight, 4), "conv2": paper.product_quantize(model.conv2.weight, 8, 50)}
    quantized = paper.decoded(model, layers)
    for name, value in quantized.state_dict().items():
        expected = layers[name.removesuffix(".weight")].decode() if name in ("fc1.weight", "conv2.weight") else before[name]
        assert torch.equal(value, expected)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert len(quantized.fc1.weight.unique()) == 4
    for wrong in ({"fc9": layers["fc1"]}, {"fc2": layers["fc1"]}, {"relu1": layers["fc1"]}):
        with pytest.raises(ValueError, match=r"the model's weights are conv1 \(20, 1, 5, 5\)"):
            paper.decoded(model, wrong)


def test_the_rate_of_a_network_counts_exact_layers_at_32_bits():
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 20), nn.ReLU(), nn.Linear(20, 10))
    split = data.load("mnist-5k").test.take(20)
    figures = runs.measure(model, split, {"1": paper.binarize(model[1].weight)})
    assert figures["rate"] == pytest.approx(32 * (15_680 + 200) / (15_680 + 32 * 200), abs=1e-4)


def test_layouts_break_what_they_say_and_nothing_else():
    w = weight(12, 16)
    orders = runs.layouts(12, 16, seed=3)
    assert all(torch.equal(order.sort().values, torch.arange(192)) for order in orders.values())
    laid = {name: w.flatten()[order].view(12, 16) for name, order in orders.items()}
    assert torch.equal(laid["trained"], w)
    moved, exchanged = laid["columns moved"], laid["segments exchanged"]
    assert torch.allclose(torch.cdist(moved, moved), torch.cdist(w, w), atol=1e-5) and not torch.equal(moved, w)
    for block in range(0, 16, runs.SEGMENT):
        parts = [sorted(map(tuple, m[:, block : block + runs.SEGMENT].tolist())) for m in (w, exchanged)]
        assert parts[0] == parts[1]
    assert not torch.allclose(torch.cdist(exchanged, exchanged).sort().values, torch.cdist(w, w).sort().values, atol=1e-2)
    for name, axis in (("shuffled in rows", 1), ("shuffled in columns", 0)):
        assert torch.equal(laid[name].sort(axis).values, w.sort(axis).values) and not torch.equal(laid[name], w)


@pytest.fixture
def untrained(monkeypatch):
    """Seeds that were asked for; each is another network with random weights, in no time."""
    asked = []

    def network(name, dataset, seed=0):
        asked.append(seed)
        torch.manual_seed(seed)
        return models.build(name).eval()

    monkeypatch.setattr(runs.models, "pretrained", network)
    return asked


ABOUT = dict(
    scale="smoke", experiment="vector_quantization", seconds=1.0, device="CPU", versions={}, date="today", command="reproduce",
    fingerprint="0",
)  # fmt: skip


@pytest.mark.parametrize("kind", runs.KINDS)
def test_a_row_of_each_kind_is_complete_and_each_seed_is_another_network(kind, untrained, monkeypatch):
    monkeypatch.setattr(runs, "STRUCTURE", {"scalar": (4,), "low rank": (16,)})
    monkeypatch.setattr(runs, "CENTRES", (4, 8))
    quick = (s for s in runs.grid("smoke") if s.get("method", "scalar") in ("scalar", "product") and s.get("length", 20) == 20)
    setting = next(s for s in quick if s["kind"] == kind)
    made = [runs.run(setting, seed=seed, scale="smoke", device="cpu") for seed in (0, 1)]
    assert untrained == [0, 1] and made[0]["baseline_loss"] != made[1]["baseline_loss"]
    for seed, one in enumerate(made):
        rows.checked(setting | ABOUT | one | dict(seed=seed))
        assert one["dataset"] == "mnist-5k" and one["epochs"] == one["batch"] == 0 and len(one["points"]) > 1
        assert all(point["bytes"] < one["dense_bytes"] for point in one["points"])


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind is 'guess'"):
        runs.run(dict(kind="guess"), seed=0, scale="smoke", device="cpu")


def test_the_accuracy_of_a_row_is_that_of_the_decoded_network(untrained):
    trained = runs.load("lenet-5", 1, "smoke", "cpu")
    layers = runs.coded(trained.model, runs.coder("scalar", 8))
    figures = runs.point(trained, layers)
    whole = rows.outcome(
        paper.decoded(trained.model, layers), trained.splits, codes={f"{n}.weight": q for n, q in layers.items()}
    )
    assert {name: figures[name] for name in ("accuracy", "validation", "nonzeros", "bytes")} == {
        name: whole[name] for name in ("accuracy", "validation", "nonzeros", "bytes")
    }


def recorded(points, seeds=(0, 1, 2)):
    """Rows of one network and method: `points` is setting -> rate, validation points lost, test points lost on each network."""
    return pd.DataFrame(
        dict(kind="method", layers=runs.ALL, network="lenet-5", dataset="mnist", method="product", seed=seed, arguments=[k],
             rate=rate, baseline=99.0, accuracy=99.0 - lost[i], baseline_validation=98.0, validation=98.0 - on_validation)
        for k, (rate, on_validation, lost) in points.items() for i, seed in enumerate(seeds)
    )  # fmt: skip


def test_settings_are_chosen_on_validation_and_told_on_test():
    found = recorded({4: (30.0, 0.9, (1.4, 1.5, 1.6)), 8: (20.0, 1.1, (0.1, 0.1, 0.1)), 16: (10.0, 0.2, (0.3, 0.2, 0.4))})
    points = rate_and_loss.settings(found, runs.ALL)
    best = rate_and_loss.best_rates(points).iloc[0]
    assert best.setting == (4,) and best.within and best.lost == pytest.approx(1.5) and best.low < 1.5 < best.high
    assert list(rate_and_loss.frontier(points).setting) == [(16,), (4,)]
    none = rate_and_loss.best_rates(points, allowed=0.1).iloc[0]
    assert none.setting == (16,) and not none.within


def test_differences_are_paired_by_network_in_any_order_of_rows():
    found = recorded({4: (30.0, 0.9, (1.0, 2.0, 3.0)), 8: (20.0, 0.1, (0.5, 1.5, 2.5))})
    for frame in (found, found.sample(frac=1, random_state=0)):
        a, b = (rate_and_loss.lost_by(frame, runs.ALL, "product", (k,))["lenet-5"] for k in (4, 8))
        assert (a - b).to_list() == pytest.approx([0.5, 0.5, 0.5])
    b = rate_and_loss.lost_by(found[(found.seed > 0)], runs.ALL, "product", (8,))["lenet-5"]
    with pytest.raises(ValueError, match="finite"):
        evidence.verdict(a - b)


def test_a_claim_of_several_tests_is_as_good_as_its_weakest():
    tests = {"a": evidence.verdict([1, 1.1]), "b": evidence.verdict([-1, 1]), "c": evidence.verdict([-1, -1.1])}
    assert judged.weakest("x", "y", tests).evidence is tests["c"]
    assert judged.weakest("x", "y", dict(a=tests["a"], b=tests["b"])).evidence is tests["b"]


def test_the_recorded_rows_are_of_five_networks_and_decide_few_claims():
    found = runner.recorded("vector-quantization")
    for network, group in found[found.scale == "lesson"].groupby("network"):
        assert sorted(group.seed.unique()) == list(range(5)), network
        assert group.groupby("seed").baseline_loss.nunique().eq(1).all() and group.baseline_loss.nunique() == 5
    assert (found.groupby(["name", "scale"]).seed.nunique() == 5).all()
    assert len(judged.paper_claims(found)) <= 8 and len(judged.our_findings(found)) <= 5


def test_a_setting_near_a_rate_is_on_the_right_side_and_chosen_on_validation():
    points = pd.DataFrame(dict(rate=[7.0, 8.5, 9.9, 10.0, 12.0, 13.0], lost_validation=[0.0, 0.6, 0.5, 0.4, 0.3, 0.1]))
    assert tables.near(points, 10).rate == 12.0
    assert tables.near(points[points.rate < 12], 10).rate == 10.0
    assert tables.near(points, 9.95, below=True).rate == 10.0  # equal to 2 percent
    assert tables.near(points[points.rate < 10], 10, below=True).rate == 9.9


def test_compared_settings_have_like_rates_and_favour_no_one_by_bits():
    found = runner.recorded("vector-quantization", scale="lesson")
    for layers in (runs.ALL, runs.LAST_EXACT):
        rates = tables.compared(found, layers).set_index(["network", "method"]).rate
        for network in tables.NAMES:
            scalar, product = rates[network, "scalar"], rates[network, "product"]
            assert scalar / 1.02 <= product <= 1.25 * scalar
            assert all(scalar / 1.25 <= rates[network, method] <= 1.02 * scalar for method in ("residual", "low rank"))


@pytest.mark.parametrize("layer", ["fc2", "fc3"])
@pytest.mark.parametrize(("method", "setting"), [*runs.ALONE.items(), ("product", (4, 7, 1))])
def test_the_rate_of_a_layer_is_that_of_its_code(layer, method, setting):
    coded = runs.coder(method, *setting)(models.build("lenet-300-100").get_submodule(layer).weight)
    assert tables.layer_rate("lenet-300-100", layer, method, setting) == pytest.approx(coded.compression_rate)


def test_layers_are_paired_with_fc1_at_their_rate():
    pairs = tables.pairs_of_layers(runner.recorded("vector-quantization", scale="lesson"))
    for layer, fc1 in pairs.values():
        assert layer.rate / 1.02 <= fc1.rate <= 1.25 * layer.rate and sorted(fc1.lost.index) == sorted(layer.lost.index)


def test_the_drawn_codes_are_those_of_the_nearest_pairs():
    row, books = (torch.from_numpy(values).float() for values in (drawings.ROW, drawings.CODEBOOKS))
    assert torch.cdist(row[:, None], books).argmin(2).flatten().tolist() == drawings.CODES.tolist()


def test_the_rates_of_the_table_are_those_of_real_codes():
    table = live.rates_at(64, (4, 8), (2, 3))
    for line, k in enumerate((4, 8)):
        for d in (2, 3):
            coded = paper.product_quantize(weight(64, 12), k, 12 // d)
            assert table[f"d = {d}"][line] == f"{coded.compression_rate:.1f}x"


def test_the_table_of_costs_says_what_the_files_hold(tmp_path):
    model = models.pretrained("lenet-300-100", "mnist-5k")
    result = paper.quantize(model, lambda w: paper.scalar_kmeans(w, 8))
    result.save(tmp_path / "network")
    split = data.load("mnist-5k").test.take(100)
    exact, coded = live.cost_table(model, {"eight": result}, split).to_dict("records")
    assert (exact["parameters"], exact["MACs"]) == (coded["parameters"], coded["MACs"]) == ("266,610", "266,200")
    assert float(coded["file (kB)"]) == pytest.approx((tmp_path / "network").stat().st_size / 1000, abs=0.06)
    assert coded["times smaller"] == f"{32 * 266_200 / sum(row['bits'] for row in result.record):.1f}"
    assert coded["accuracy (%)"] == f"{100 * training.evaluate(result.model, split):.2f}"


def test_weights_are_coded_in_a_copy():
    model = models.pretrained("lenet-300-100", "mnist-5k")
    before = model.fc1.weight.clone()
    signs = live.with_coded_weights(model, torch.sign)
    assert torch.equal(signs.fc1.weight, before.sign()) and torch.equal(model.fc1.weight, before)


def test_the_most_fragile_layer_loses_most_alone():
    lost = {"fc1": 1.0, "fc2": 3.0, runs.ALL: 9.0}
    one = recorded({4: (30.0, 0.9, (0.0,))}, seeds=(0,)).assign(kind="alone", network="lenet-300-100")
    found = pd.concat([one.assign(layers=layers, accuracy=99.0 - points) for layers, points in lost.items()])
    assert lesson.most_fragile(found, "PQ") == "fc2"


def test_the_findings_over_the_figures_are_true_of_the_recorded_rows():
    points = rate_and_loss.settings(runner.recorded("vector-quantization", scale="lesson"), runs.LAST_EXACT)
    curves = dict(list(points.groupby(["network", "method"])))

    def lost(network: str, method: str, rate: float) -> float:
        """Points lost where the drawn line is at a rate."""
        curve = rate_and_loss.frontier(curves[network, method])
        return np.interp(np.log(rate), np.log(curve.rate), curve.lost)

    assert lost("lenet-300-100", "low rank", 8) > lost("lenet-300-100", "low rank", 7.85) > 3  # at 7.85x lies a setting
    assert lost("lenet-300-100", "scalar", 8) < 0.1
    assert min(lost("lenet-5", method, 16) for method in ("residual", "low rank")) > 1 > 0.1 > lost("lenet-5", "product", 16)


def test_the_table_of_methods_names_settings_that_their_rates_do_not_say():
    table = lesson.comparison_table(runner.recorded("vector-quantization", scale="lesson")).set_index(["network", "method"])
    best = table.iloc[:, 0]["LeNet-300-100"]
    assert best["PQ"].endswith("x: k = 4, d = 1, rows") and best["RQ"].endswith("x: k = 16, t = 6")
    assert best["SVD"].endswith("x") and best["sign"] == "none"


def test_the_most_frequent_centroid_is_framed():
    fig = live.patches_figure(torch.randn(10, 3, 3), torch.tensor([1, 0, 0, 0, 0, 0, 0, 0, 0, 3]))
    (frame,) = (patch for patch in fig.axes[0].patches if not patch.get_fill())
    assert frame.get_xy() == (4 - 0.5, 4 - 0.5) and "75%" in fig.get_suptitle()


def test_the_table_of_changed_orders_shows_all_of_them_and_the_guesses():
    found = runner.recorded("vector-quantization", scale="lesson")
    table = lesson.structure_table(found, {"PQ": "columns moved"})
    times = tables.structure_factors(found).mean()
    assert list(table.columns[2:]) == [order for order in runs.layouts(8, 8, seed=0) if order != "trained"]
    assert list(table["your guess"]) == ["-", "columns moved", "-", "-"]
    for (_, line), method in zip(table.iterrows(), runs.STRUCTURE, strict=True):
        assert [line[order] for order in table.columns[2:]] == [f"{times[method, order]:.2f}" for order in table.columns[2:]]
