"""Networks and habits that are legitimate and odd: right, or refused by name before anything is trained."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from course_lib import methods
from course_lib.methods import METHODS

IMAGES = [(torch.randn(8, 8, generator=torch.Generator().manual_seed(seed)), torch.arange(8) % 4) for seed in range(3)]
NARROWING = ("network-trimming", "filter-pruning", "channel-pruning", "thinet")
ZEROING = ("weight-pruning", "deep-compression")
pytestmark = pytest.mark.filterwarnings("ignore:.*do not settle")


def dense(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).eval()


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.hidden, self.head = nn.Embedding(50, 8), nn.Linear(8, 8), nn.Linear(8, 50, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.hidden(self.table(x).mean(1))))


def assigned(network: nn.Module) -> None:
    """A user's loop that puts other parameters in the places of the old ones."""
    state = {name: value + 0.01 for name, value in copy.deepcopy(network).state_dict().items()}
    network.load_state_dict(state, assign=True)


@pytest.mark.parametrize("method", ZEROING)
def test_pruned_weights_are_zero_also_where_retraining_replaces_parameters(method):
    result = methods.apply(method, dense(), None, sparsity=0.9, retrain=assigned)
    assert (result.model[0].weight == 0).float().mean() == pytest.approx(0.9, abs=0.01)


def test_codes_hold_also_where_retraining_replaces_parameters():
    result = methods.apply("vector-quantization", dense(), None, k=4, retrain=assigned)
    assert torch.equal(result.model[0].weight, result.codes["0.weight"].decode()) and result.model[0].weight.requires_grad


@pytest.mark.parametrize("method", ZEROING)
def test_a_pruned_weight_of_another_shape_is_refused(method):
    def widened(network: nn.Module) -> None:
        network[0].weight = nn.Parameter(torch.ones(33, 8))

    with pytest.raises(ValueError, match="retrain has replaced '0.weight'"):
        methods.apply(method, dense(), None, retrain=widened)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("norm", [parametrizations.weight_norm, lambda layer: prune.l1_unstructured(layer, "weight", 0.5)])
def test_computed_weights_are_refused_with_the_layer(method, norm):
    model = nn.Sequential(norm(nn.Linear(8, 32)), nn.ReLU(), nn.Linear(32, 4)).eval()
    with pytest.raises(ValueError, match="computes the weight of layer '0'"):
        methods.apply(method, model, IMAGES)


@pytest.mark.parametrize("method", METHODS)
def test_tied_weights_are_refused_by_both_names(method):
    with pytest.raises(ValueError, match=r"'table.weight' and 'head.weight'; untie them"):
        methods.apply(method, Tied(), [(torch.randint(0, 50, (8, 6)), torch.arange(8))])


@pytest.mark.parametrize("method", METHODS)
def test_frozen_parameters_stay_frozen(method):
    result = methods.apply(method, dense().requires_grad_(False), IMAGES)
    assert not any(parameter.requires_grad for parameter in result.model.parameters())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions_are_saved_and_loaded(method, dtype, tmp_path):
    images = [(x.to(dtype), y) for x, y in IMAGES]
    result = methods.apply(method, dense().to(dtype), images)
    result.save(tmp_path / "network")
    again = methods.load(tmp_path / "network", dense(3).to(dtype))
    with torch.no_grad():
        assert torch.equal(again(images[0][0]), result.model(images[0][0]))


@pytest.mark.parametrize("method", ["vector-quantization", *ZEROING])
def test_a_model_may_be_one_layer(method, tmp_path):
    torch.manual_seed(0)
    methods.apply(method, nn.Linear(8, 16), None).save(tmp_path / "layer")
    assert isinstance(methods.load(tmp_path / "layer", nn.Linear(8, 16)), nn.Linear)


@pytest.mark.parametrize("method", METHODS)
def test_a_compiled_model_is_compressed_and_loaded_like_the_plain_one(method, tmp_path):
    compiled = torch.compile(dense(), backend="eager")
    result = methods.apply(method, compiled, IMAGES)
    result.save(tmp_path / "network")
    assert isinstance(methods.load(tmp_path / "network", torch.compile(dense(2), backend="eager")), nn.Sequential)


def test_what_retraining_returns_must_be_the_network_it_was_given():
    with pytest.raises(ValueError, match="retrain returns another network"):
        methods.apply("filter-pruning", dense(), IMAGES, retrain=copy.deepcopy)


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("deep-compression", dict(coder="zip"), "coder is 'zip'"),
        ("deep-compression", dict(finetune=3), "finetune is a int"),
        ("thinet", dict(finish=3), "finish is a int"),
        ("filter-pruning", dict(measure=3), "measure is a int"),
        ("weight-pruning", dict(sparsity="0.5"), "sparsity is '0.5'; expected a number"),
        ("weight-pruning", dict(rounds=2.5), "rounds is 2.5; expected a whole number"),
        ("vector-quantization", dict(k="16"), "k is '16'; expected a whole number"),
        ("filter-pruning", dict(keep="0.5"), "keep is '0.5'"),
        ("channel-pruning", dict(positions="3"), "positions is '3'"),
    ],
)
def test_settings_are_checked_before_any_training(method, settings, message):
    calls = []
    with pytest.raises(ValueError, match=message):
        methods.apply(method, dense(), IMAGES, retrain=calls.append, **settings)
    assert calls == []


def test_a_data_set_in_place_of_batches_is_told_as_that():
    with pytest.raises(ValueError, match="as a DataLoader yields them"):
        methods.apply("thinet", dense(), torch.utils.data.TensorDataset(*(torch.cat(part) for part in zip(*IMAGES, strict=True))))


def test_labels_of_one_column_are_labels_and_of_several_are_refused():
    column = [(x, y[:, None]) for x, y in IMAGES]
    assert methods.apply("thinet", dense(), column).model[0].out_features == 16
    with pytest.raises(ValueError, match="labels per image in batches is 4"):
        methods.apply("thinet", dense(), [(x, torch.eye(4)[y]) for x, y in IMAGES])
