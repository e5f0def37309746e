"""One contract for all seven methods, on several networks, as a user calls them: by `methods.apply`."""

import copy
import subprocess
import sys
import warnings

import pytest
import torch
from torch import Tensor, nn

from course_lib import methods, surgery
from course_lib.methods import METHODS
from tests.methods.networks import BUILD, images_of, loader, network, trainer

pytestmark = pytest.mark.filterwarnings("ignore:.*do not settle")

BOTH = [(method, name) for method in METHODS for name in BUILD]
NARROWING = ("network-trimming", "filter-pruning", "channel-pruning", "thinet")
# So that something is removed on random weights too, in one retraining
SETTINGS = {"network-trimming": dict(stds=0.5)}


def compress(method: str, model: nn.Module, batches, **settings) -> methods.Result:
    return methods.apply(method, model, batches, **SETTINGS.get(method, {}) | settings)


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def zeros(model: nn.Module) -> int:
    return sum(int((p == 0).sum()) for p in model.parameters() if p.dim() > 1)


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@torch.no_grad()
def outputs(model: nn.Module, images: Tensor) -> Tensor:
    return model(images)


@pytest.mark.parametrize(("method", "name"), BOTH)
def test_it_compresses_a_new_network_and_leaves_the_old_one_alone(method, name, tmp_path):
    """Also in training mode and under no_grad; what comes back computes, is saved and loaded with the same outputs."""
    model, batches = network(name), loader(name)
    model.train()
    before, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    with torch.no_grad():
        result = compress(method, model, batches)
    assert equal(model.state_dict(), before) and [module.training for module in model.modules()] == modes
    assert not any(module.training for module in result.model.modules())
    assert all(p.requires_grad for p in result.model.parameters())
    assert {p.device for p in result.model.parameters()} == {p.device for p in model.parameters()}
    assert not {id(p) for p in model.parameters()} & {id(p) for p in result.model.parameters()}
    if method in NARROWING:
        weights = sum(p.numel() for p in result.model.parameters() if p.dim() > 1)
        assert weights < sum(p.numel() for p in model.parameters() if p.dim() > 1)
    elif method != "vector-quantization":
        assert zeros(result.model) > 0.4 * size(model)
    images = images_of(batches)
    assert outputs(result.model, images).isfinite().all() and len(result.record) >= 1
    result.save(tmp_path / "network")
    again = methods.load(tmp_path / "network", network(name, seed=7))
    assert torch.equal(outputs(again, images), outputs(result.model, images))
    assert not any(module.training for module in again.modules())


@pytest.mark.parametrize("method", METHODS)
def test_seeds_give_the_same_twice_and_differ_between(method):
    model, batches = network("small"), loader("small")
    if "seed" not in METHODS[method].settings():
        assert equal(compress(method, model, batches).model.state_dict(), compress(method, model, batches).model.state_dict())
        return
    settings = dict(positions=1) if "positions" in METHODS[method].settings() else {}
    first, again, other = (compress(method, model, batches, seed=seed, **settings).model for seed in (0, 0, 1))
    assert equal(first.state_dict(), again.state_dict()) and not equal(first.state_dict(), other.state_dict())


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD])
@pytest.mark.parametrize("method", METHODS)
def test_what_is_pruned_stays_pruned_and_what_is_coded_stays_coded(method, optimizer, tmp_path):
    """By the user's own loop, with weight decay and momentum; the rest of the network is trained."""
    model, batches = network("small"), loader("small")
    how = dict(momentum=0.9) if optimizer is torch.optim.SGD else {}
    calls = []

    def retrain(part: nn.Module) -> None:
        calls.append(part)
        trainer(batches, optimizer, **how)(part)

    plain, tuned = compress(method, model, batches), compress(method, model, batches, retrain=retrain)
    assert calls
    if method in NARROWING:
        plain_shapes, shapes = ({n: p.shape for n, p in r.model.named_parameters()} for r in (plain, tuned))
        assert method == "network-trimming" or shapes == plain_shapes
    elif method == "vector-quantization":
        for parameter, code in tuned.codes.items():
            assert torch.equal(tuned.model.get_parameter(parameter), code.decode())
    else:
        assert zeros(tuned.model) >= zeros(plain.model)
    assert not equal(plain.model.state_dict(), tuned.model.state_dict())
    assert not any(module.training for module in tuned.model.modules())
    assert not any(m._forward_pre_hooks or m._forward_hooks or hasattr(m, "parametrizations") for m in tuned.model.modules())
    tuned.save(tmp_path / "network")
    images = images_of(batches)
    assert torch.equal(outputs(methods.load(tmp_path / "network", network("small", 3)), images), outputs(tuned.model, images))


@pytest.mark.parametrize("method", ["network-trimming", "filter-pruning"])
def test_removed_is_zeroed(method):
    """Where a method removes and changes nothing else: the network is the old one with these channels at zero."""
    model, batches = network("small"), loader("small")
    images = images_of(batches)
    result = compress(method, model, batches)
    zeroed = copy.deepcopy(model)
    for layer, kept in result.model.surgery_steps[0]["kept"].items():
        tied = surgery.coupling(model, layer, images[:1])
        gone = torch.tensor([c for c in range(len(model.get_submodule(layer).weight)) if c not in kept])
        places = dict.fromkeys(tied.producers, gone) | {name: rows[gone].flatten() for name, rows in tied.others.items()}
        for name, rows in places.items():
            module = zeroed.get_submodule(name)
            module.weight.data[rows] = 0
            if module.bias is not None:
                module.bias.data[rows] = 0
    torch.testing.assert_close(outputs(result.model, images), outputs(zeroed, images))


def test_weight_pruning_zeroes_the_smallest_weights_of_each_layer():
    model = network("small")
    pruned = methods.apply("weight-pruning", model, None, sparsity=0.75).model
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            mask = pruned.get_submodule(name).weight != 0
            assert torch.equal(pruned.get_submodule(name).weight, layer.weight * mask)
            assert layer.weight[~mask].abs().max() <= layer.weight[mask].abs().min()
            assert int((~mask).sum()) == round(0.75 * mask.numel())


def test_all_come_back_in_another_process_and_run_in_onnx(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model, batches = network("small"), loader("small")
    images = images_of(batches)
    expected = {}
    for method in METHODS:
        result = compress(method, model, batches)
        result.save(tmp_path / method)
        expected[method] = outputs(result.model, images)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own deprecations
            file = tmp_path / f"{method}.onnx"
            torch.onnx.export(
                result.model, (images,), file, input_names=["images"], dynamo=True, external_data=False, verbose=False
            )
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        torch.testing.assert_close(torch.from_numpy(session.run(None, {"images": images.numpy()})[0]), expected[method])
    torch.save(images, tmp_path / "images.pt")
    script = (
        "import sys, torch; from pathlib import Path\n"
        "from course_lib import methods; from tests.methods.networks import network\n"
        "folder = Path(sys.argv[1]); images = torch.load(folder / 'images.pt')\n"
        "with torch.no_grad(): found = {m: methods.load(folder / m, network('small', 5))(images) for m in methods.METHODS}\n"
        "torch.save(found, folder / 'found.pt')"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    assert equal(torch.load(tmp_path / "found.pt"), expected)


@pytest.mark.parametrize("method", METHODS)
def test_bad_input_is_refused_by_its_name(method):
    model, batches = network("small"), loader("small")
    before = copy.deepcopy(model.state_dict())
    settings = METHODS[method].settings()
    wrong: list[tuple[str, dict, object, nn.Module]] = [
        ("'colour' is no setting", dict(colour=1), batches, model),
        ("retrain is a int", dict(retrain=3), batches, model),
        ("batches yields images of shape", {}, loader("lenet-5-relu"), model),
        ("batches holds no images", {}, [], model),
        ("NaN", {}, [(torch.full((4, 3, 12, 12), torch.nan), torch.zeros(4).long())], model),
        ("'stem.weight'", {}, batches, spoilt(model)),
        ("no dense layer and no convolution", {}, batches, nn.Sequential(nn.ReLU())),
    ]
    if "keep" in settings:
        wrong += [
            ("keep", dict(keep=keep), batches, model) for keep in (0, -1, 1.5, float("nan"), {"conv1": [0, 0]}, {"conv1": [99]})
        ]
        wrong += [("'conv9'", dict(keep={"conv9": 0.5}), batches, model)]
    if "sparsity" in settings:
        wrong += [("sparsity", dict(sparsity=share), batches, model) for share in (1, 1.5, -0.1, float("nan"))]
        wrong += [("'conv9'", dict(sparsity={"conv9": 0.5}), batches, model)]
    if "layers" in settings:
        wrong += [("'conv9'", dict(layers=["conv9"]), batches, model)]
    if METHODS[method].needs_images:
        wrong += [("batches is None", {}, None, model)]
    for message, arguments, data, network_ in wrong:
        with pytest.raises(ValueError, match=message):
            methods.apply(method, network_, data, **arguments)
    assert equal(model.state_dict(), before)


def spoilt(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    model.stem.weight.data[0, 0, 0, 0] = torch.nan
    return model


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupt_in_retraining_reaches_the_caller(method):
    model, batches = network("small"), loader("small")
    before = copy.deepcopy(model.state_dict())

    def interrupted(part: nn.Module) -> None:
        trainer(batches)(part)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress(method, model, batches, retrain=interrupted)
    assert equal(model.state_dict(), before) and not any(module.training for module in model.modules())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_an_unknown_method_is_refused_by_the_list_of_known_ones():
    with pytest.raises(ValueError, match="vector-quantization, weight-pruning"):
        methods.apply("magic", network("small"), None)


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if not method.needs_images])
def test_methods_that_choose_by_weights_need_no_images(method):
    assert size(methods.apply(method, network("small"), None).model) <= size(network("small"))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "alexnet", "mobilenet_v2", "densenet121"])
@pytest.mark.parametrize("method", METHODS)
def test_torchvisions_networks_without_settings(method, name, tmp_path):
    """Something sensible, or a refusal that names layers; saved and loaded with the same outputs."""
    from torchvision.models import get_model

    torch.manual_seed(0)
    model = get_model(name, num_classes=10).eval()
    random = torch.Generator().manual_seed(1)
    pixels = 64 if name == "alexnet" else 32  # its first convolution and its pooling leave nothing of 32
    batches = [(torch.randn(8, 3, pixels, pixels, generator=random), torch.arange(8)) for _ in range(2)]
    result = methods.apply(method, model, batches)
    result.save(tmp_path / "network")
    loaded = methods.load(tmp_path / "network", get_model(name, num_classes=10))
    assert torch.equal(outputs(loaded, batches[0][0]), outputs(result.model, batches[0][0]))
    assert (tmp_path / "network").stat().st_size < 4 * size(model) + 2**20


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("method", METHODS)
def test_cuda_the_result_lies_where_the_model_was_and_loads_anywhere(method, tmp_path):
    """Batches may lie on the CPU."""
    model, batches = network("small").cuda(), loader("small")
    images = images_of(batches)

    def retrain(part: nn.Module) -> None:
        trainer([(x.cuda(), y.cuda()) for x, y in batches])(part)

    result = compress(method, model, batches, retrain=retrain)
    assert all(tensor.is_cuda for tensor in result.model.state_dict().values())
    result.save(tmp_path / "network")
    here = methods.load(tmp_path / "network", network("small", 3))
    torch.testing.assert_close(outputs(here, images), outputs(result.model, images.cuda()).cpu(), rtol=1e-3, atol=1e-3)
