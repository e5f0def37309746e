"""fit and evaluate: exactness, masks, seeds, interrupts, and a resume after a real kill."""

import copy
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from course_lib import masks, models, training
from course_lib.data import Split, Splits


@pytest.fixture
def splits() -> Splits:
    """300 random digits that a network can learn: the label shifts the mean of a patch."""
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (300,), generator=random)
    images = torch.randn(300, 1, 28, 28, generator=random)
    for label in range(10):
        images[labels == label, 0, 2 * label + 4 : 2 * label + 6, 8:20] += 3
    return Splits(Split(images, labels), *[Split(images[:100], labels[:100])] * 2, "random", "random")


def state(model: nn.Module) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


def fresh(name: str = "lenet-300-100") -> nn.Module:
    torch.manual_seed(0)
    return models.build(name)


QUIET = dict(progress=False, lr=0.02, batch_size=64)


def test_evaluate_equals_counting_by_hand_and_keeps_every_mode(splits):
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(784, 10))
    model.train()
    model[1].eval()
    scores = splits.test.images.flatten(1).numpy() @ model[2].weight.detach().numpy().T + model[2].bias.detach().numpy()
    by_hand = float(np.mean(scores.argmax(1) == splits.test.labels.numpy()))
    for batch_size in (1, 7, 100, 1000):
        assert training.evaluate(model, splits.test, batch_size) == pytest.approx(by_hand, abs=1e-12)
    assert [m.training for m in model.modules()] == [True, True, False, True]


def test_fit_learns_and_reports_what_it_did(splits):
    model = fresh()
    before = training.evaluate(model, splits.test)
    history = training.fit(model, splits, epochs=8, **QUIET)
    assert training.evaluate(model, splits.test) > max(0.6, before + 0.3)
    assert list(history.frame().index) == list(range(1, 9))
    assert history.epochs[-1]["loss"] < history.epochs[0]["loss"]
    assert not model.training


@pytest.mark.parametrize("name", ["lenet-300-100", "lenet-5"])
def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(splits, name):
    runs = []
    for seed in (1, 1, 2):
        model = fresh(name)
        torch.manual_seed(time.time_ns())  # the caller's random state must not matter
        training.fit(model, splits, epochs=1, augment="shift", seed=seed, **QUIET)
        runs.append(state(model))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_the_callers_random_state_is_left_alone(splits):
    model = fresh()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    training.fit(model, splits, epochs=1, **QUIET)
    assert torch.equal(torch.rand(3), expected)


def test_masked_weights_never_move_whatever_momentum_and_penalties_do(splits):
    model = fresh("lenet-5")
    kept = {n: torch.rand(p.shape) < 0.3 for n, p in model.named_parameters() if p.dim() > 1}
    with masks.holding(model, kept):
        training.fit(model, splits, epochs=2, l1=1e-3, weight_decay=1e-2, **QUIET)
    for name, parameter in model.named_parameters():
        if name in kept:
            assert (parameter[~kept[name]] == 0).all()
            assert (parameter[kept[name]] != 0).all()


def test_torch_prune_is_honoured(splits):
    model = fresh()
    prune.l1_unstructured(model.fc1, "weight", amount=0.9)
    dropped = model.fc1.weight_mask == 0
    training.fit(model, splits, epochs=1, **QUIET)
    model(splits.test.images)
    assert (model.fc1.weight[dropped] == 0).all()
    prune.remove(model.fc1, "weight")
    assert (model.fc1.weight == 0).sum() == dropped.sum()


def test_frozen_layers_stay_and_are_trainable_again_afterwards(splits):
    model = nn.Sequential(nn.Conv2d(1, 4, 5), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 24 * 24, 10))
    before = copy.deepcopy(model.state_dict())
    training.fit(model, splits, epochs=1, frozen=["0", "1"], **QUIET)
    after = model.state_dict()
    for name in before:
        assert torch.equal(before[name], after[name]) == name.startswith(("0.", "1.")), name
    assert all(p.requires_grad for p in model.parameters())


def test_one_step_with_both_penalties_equals_the_formula_in_numpy(splits):
    """w <- w - lr (g + l1 sign(w) + l2 w), without momentum."""
    images, labels = splits.train.images[:50], splits.train.labels[:50]
    batch = Splits(Split(images, labels), *[splits.test] * 2, "random", "random")
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    weight = model[1].weight.detach().double().numpy().copy()
    x, y = images.flatten(1).double().numpy(), labels.numpy()
    scores = x @ weight.T + model[1].bias.detach().double().numpy()
    p = np.exp(scores - scores.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    p[np.arange(50), y] -= 1
    gradient = p.T @ x / 50
    training.fit(
        model, batch, epochs=1, lr=0.1, schedule="constant", momentum=0, l1=0.01, weight_decay=0.1, batch_size=50, progress=False
    )
    expected = weight - 0.1 * (gradient + 0.01 * np.sign(weight) + 0.1 * weight)
    np.testing.assert_allclose(model[1].weight.detach().numpy(), expected, atol=2e-6)


def interrupt_at(monkeypatch: pytest.MonkeyPatch, number: int, late: bool = False) -> None:
    """Ctrl-C at a step of SGD, before it or just after."""
    steps, original = itertools.count(1), training.fitting._step

    def interrupted(*arguments):
        done = original(*arguments) if late else None
        if next(steps) == number:
            raise KeyboardInterrupt
        return done if late else original(*arguments)

    monkeypatch.setattr(training.fitting, "_step", interrupted)


def test_an_interrupt_leaves_fit_and_leaves_the_model_in_order(splits, monkeypatch, tmp_path):
    model = fresh("lenet-5")
    mask = torch.rand(model.fc1.weight.shape) < 0.5
    interrupt_at(monkeypatch, 8, late=True)  # in the second epoch, between the step and the masks
    with pytest.raises(KeyboardInterrupt), masks.holding(model, {"fc1.weight": mask}):
        training.fit(model, splits, epochs=5, frozen=["conv1"], resume_from=tmp_path / "state.pt", **QUIET)
    assert not any(module.training for module in model.modules())
    assert all(parameter.requires_grad and parameter.is_contiguous() for parameter in model.parameters())
    assert (model.fc1.weight[~mask] == 0).all()
    assert len(torch.load(tmp_path / "state.pt")["epochs"]) == 1  # 5 steps an epoch


def test_a_run_that_was_interrupted_ends_as_one_that_was_not(splits, monkeypatch, tmp_path):
    whole, resumed = fresh("lenet-5"), fresh("lenet-5")
    training.fit(whole, splits, epochs=3, augment="shift", **QUIET)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 12)
        with pytest.raises(KeyboardInterrupt):
            training.fit(resumed, splits, epochs=3, augment="shift", resume_from=tmp_path / "state.pt", **QUIET)
    history = training.fit(resumed, splits, epochs=3, augment="shift", resume_from=tmp_path / "state.pt", **QUIET)
    assert torch.equal(state(resumed), state(whole)) and len(history.epochs) == 3


def test_a_write_that_is_cut_off_leaves_the_state_before_it(splits, monkeypatch, tmp_path):
    path, save, calls = tmp_path / "state.pt", torch.save, itertools.count(1)

    def cut_off(state, file):
        save(state, file)
        if next(calls) == 2:
            file.write_bytes(file.read_bytes()[:1000])
            raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", cut_off)
    with pytest.raises(KeyboardInterrupt):
        training.fit(fresh(), splits, epochs=3, resume_from=path, **QUIET)
    assert len(torch.load(path)["epochs"]) == 1 and list(tmp_path.iterdir()) == [path]


def test_an_error_in_the_data_puts_everything_back(splits):
    model = fresh("lenet-5").train()
    broken = Splits(Split(splits.train.images, splits.train.labels + 20), *[splits.test] * 2, "random", "random")
    with pytest.raises((IndexError, RuntimeError)):
        training.fit(model, broken, epochs=1, frozen=["conv1"], **QUIET)
    assert not model.training and all(p.requires_grad and p.is_contiguous() for p in model.parameters())


def test_evaluate_puts_the_modes_back_after_an_error(splits):
    model = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(3, 10)).train()
    model[1].eval()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        training.evaluate(model, splits.test)
    assert [module.training for module in model.modules()] == [True, True, False, True]


def test_the_penalty_leaves_weights_that_take_no_part_alone(splits):
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    model.register_module("unused", nn.Linear(3, 3))
    model.forward = lambda images: model[1](model[0](images))
    model.append(nn.Linear(5, 5))
    model[2].requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    training.fit(model, splits, epochs=1, l1=1e-3, **QUIET)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"1.weight", "1.bias"}
    assert not model[2].weight.requires_grad  # as the caller had it


def test_no_device_is_touched_but_the_models(splits, monkeypatch):
    asked, fork = [], torch.random.fork_rng

    def recorded(*arguments, **settings):
        asked.append((arguments, settings))
        return fork(*arguments, **settings)

    def forbidden(*_arguments):
        raise AssertionError("seeds every device")

    monkeypatch.setattr(torch.random, "fork_rng", recorded)
    monkeypatch.setattr(torch, "manual_seed", forbidden)
    training.fit(models.build("lenet-300-100"), splits, epochs=1, **QUIET)
    assert asked == [((), {"devices": []})]


def test_what_fit_and_evaluate_compute_in(monkeypatch):
    """By device, for images of four dimensions; a stand-in for images on a GPU serves where there is none."""
    on_gpu = SimpleNamespace(device=torch.device("cuda"), dim=lambda: 4)
    here = torch.zeros(2, 1, 28, 28)
    convolutions, dense = fresh("lenet-5"), fresh("lenet-300-100")
    assert training.fitting._arithmetic(convolutions, on_gpu) == (torch.bfloat16, torch.channels_last)
    assert training.fitting._arithmetic(dense, on_gpu) == (torch.bfloat16, torch.contiguous_format)
    assert training.fitting._arithmetic(convolutions, on_gpu, torch.float32) == (torch.float32, torch.channels_last)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert training.fitting._arithmetic(convolutions, here) == (torch.float32, torch.channels_last)
    assert training.fitting._arithmetic(dense, here) == (torch.float32, torch.contiguous_format)
    assert training.fitting._arithmetic(convolutions, here.flatten(1)) == (torch.float32, torch.contiguous_format)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert training.fitting._arithmetic(convolutions, here) == (torch.bfloat16, torch.channels_last)


def test_evaluate_computes_on_the_cpu_in_what_it_is_given(splits):
    """Not in another dtype or layout: figures that were measured before stay what they were."""
    seen = []
    model = fresh("lenet-5")
    model.register_forward_pre_hook(lambda _model, inputs: seen.append(inputs[0]))
    training.evaluate(model, splits.test, 50)
    assert [x.data_ptr() for x in seen] == [x.data_ptr() for x in splits.test.images.split(50)]
    with torch.autocast("cpu", torch.bfloat16):
        model.register_forward_hook(lambda _model, _inputs, scores: seen.append(scores))
        training.evaluate(model, splits.test)
    assert seen[-1].dtype == torch.bfloat16


RUN = """
import torch
from course_lib import models, training
from course_lib.data import Split, Splits
torch.set_num_threads(1)
torch.manual_seed(0)
split = Split(torch.randn(600, 1, 28, 28), torch.randint(10, (600,)))
model = models.build("lenet-5")
splits = Splits(split, split, split, "random", "random")
training.fit(model, splits, epochs=6, lr=0.05, augment="shift", resume_from={resume!r}, progress=False, seed=3)
torch.save(model.state_dict(), {out!r})
"""
STOP_AFTER_TWO = """
from course_lib.training import resuming
stored = resuming.store
def store(path, model, optimizer, settings, epochs):
    stored(path, model, optimizer, settings, epochs)
    if len(epochs) == 2:
        print("stored", flush=True)
        input()
resuming.store = store
"""


def killed_after_an_epoch(command: list[str], environment: dict[str, str]) -> None:
    """Runs a command until it says that an epoch is stored, and kills it there: it goes on only when it is told."""
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "stored\n"
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_a_killed_run_resumes_bit_identical(tmp_path):
    """A real process is killed (SIGKILL) after its second stored epoch; another one finishes."""

    def command(resume: Path, out: Path, before: str = "") -> list[str]:
        return [sys.executable, "-c", before + RUN.format(resume=str(resume), out=str(out))]

    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    whole, resumed, state_file = tmp_path / "whole.pt", tmp_path / "resumed.pt", tmp_path / "state.pt"
    exec(RUN.format(resume=str(tmp_path / "other.pt"), out=str(whole)), {})

    killed_after_an_epoch(command(state_file, resumed, before=STOP_AFTER_TWO), environment)
    assert len(torch.load(state_file)["epochs"]) == 2 and not resumed.exists()
    subprocess.run(command(state_file, resumed), check=True, env=environment)
    first, second = torch.load(whole), torch.load(resumed)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_resume_file_of_another_run_or_a_damaged_one_is_refused(splits, tmp_path):
    path = tmp_path / "state.pt"
    training.fit(fresh(), splits, epochs=1, resume_from=path, **QUIET)
    with pytest.raises(ValueError, match="seed: 0 there, 1 here"):
        training.fit(fresh(), splits, epochs=1, resume_from=path, seed=1, **QUIET)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="delete it to start afresh"):
        training.fit(fresh(), splits, epochs=1, resume_from=path, **QUIET)


def test_a_resume_with_other_masks_or_precision_or_shapes_is_refused(splits, tmp_path):
    path, half = tmp_path / "state.pt", {"fc1.weight": torch.rand(300, 784) < 0.5}

    def resume(model: nn.Module | None = None, kept: dict[str, torch.Tensor] = half, precision=torch.bfloat16):
        model = model or fresh()
        with masks.holding(model, kept):
            return training.fit(model, splits, epochs=1, resume_from=path, precision=precision, **QUIET)

    resume()
    for changes, differing in [
        (dict(kept={"fc1.weight": ~half["fc1.weight"]}), "mask of fc1.weight: '[0-9a-f]{16}' there, '[0-9a-f]{16}' here"),
        (dict(kept={}), "mask of fc1.weight: '[0-9a-f]{16}' there, None here"),
        (dict(kept=half | {"fc3.weight": torch.ones(10, 100).bool()}), "mask of fc3.weight: None there, '[0-9a-f]{16}' here"),
        (dict(precision=None), "precision: 'torch.bfloat16' there, 'torch.float32' here"),
        (dict(model=models.build("lenet-5"), kept={}), r"shape of conv1.weight: None there, \(20, 1, 5, 5\) here"),
    ]:
        with pytest.raises(ValueError, match=differing):
            resume(**changes)
    assert len(resume().epochs) == 1


def test_the_default_precision_is_stored_as_what_it_stands_for(splits, tmp_path):
    training.fit(fresh(), splits, epochs=1, resume_from=tmp_path / "state.pt", **QUIET)
    assert torch.load(tmp_path / "state.pt")["settings"]["precision"] == "torch.float32"
    training.fit(fresh(), splits, epochs=1, resume_from=tmp_path / "state.pt", precision=torch.float32, **QUIET)


def test_shifts_move_whole_images_and_nothing_else():
    images = torch.arange(28.0 * 28).view(1, 1, 28, 28).expand(200, 1, 28, 28)
    shifted = training.augmentation.augmented(images, "shift", torch.Generator().manual_seed(0))
    padded = np.pad(images[0, 0].numpy(), 2, mode="reflect")
    places = [padded[d : d + 28, r : r + 28] for d in range(5) for r in range(5)]
    found = {next(i for i, place in enumerate(places) if np.array_equal(place, image)) for image in shifted[:, 0].numpy()}
    assert len(found) == 25  # all shifts occur


def test_crop_flip_mirrors_about_half():
    images = torch.zeros(2000, 3, 32, 32)
    images[..., 12:20, 6:8] = 1  # left of the middle, beyond the reach of shift and reflection
    out = training.augmentation.augmented(images, "crop-flip", torch.Generator().manual_seed(0))
    right = (out[..., 16:].sum((1, 2, 3)) > out[..., :16].sum((1, 2, 3))).float().mean()
    assert 0.45 < right < 0.55


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(epochs=0), "epochs is 0"),
        (dict(epochs=1, schedule="cosine"), "'constant', 'linear', 'one-cycle'"),
        (dict(epochs=1, augment="mirror"), "'shift', 'crop-flip'"),
        (dict(epochs=1, frozen=["fc9"]), "fc9.*fc1"),
        (dict(epochs=1, l1=-1), "l1 is -1"),
    ],
)
def test_bad_arguments_say_what_is_allowed(splits, arguments, message):
    with pytest.raises(ValueError, match=message):
        training.fit(fresh(), splits, **{"progress": False, **arguments})


def test_evaluate_refuses_nothing_to_evaluate(splits):
    empty = Split(splits.test.images[:0], splits.test.labels[:0])
    with pytest.raises(ValueError, match="batches holds no images"):
        training.evaluate(fresh(), empty)
    with pytest.raises(ValueError, match="size is 0"):
        training.evaluate(fresh(), splits.test, 0)


def on_gpu(splits: Splits) -> Splits:
    return Splits(
        *(Split(s.images.cuda(), s.labels.cuda()) for s in (splits.train, splits.validation, splits.test)), "random", "random"
    )


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_trains_in_bfloat16_to_about_the_same_accuracy(splits):
    model, there = fresh("lenet-5").cuda(), on_gpu(splits)
    training.fit(model, there, epochs=8, **QUIET)
    assert training.evaluate(model, there.test) > 0.5
    assert all(parameter.is_cuda and parameter.is_contiguous() for parameter in model.parameters())


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_evaluates_in_bfloat16_as_the_cpu_counts(splits):
    model, dtypes = fresh("lenet-5"), set()
    training.fit(model, splits, epochs=4, **QUIET)
    here = training.evaluate(model, splits.test)
    model.cuda().register_forward_hook(lambda _model, _inputs, scores: dtypes.add(scores.dtype))
    assert training.evaluate(model, on_gpu(splits).test) == pytest.approx(here, abs=0.03)
    assert dtypes == {torch.bfloat16}


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_the_callers_random_state_is_left_alone_and_masks_hold(splits):
    model, there = fresh().cuda(), on_gpu(splits)
    mask = torch.rand(300, 784) < 0.5  # on the CPU, as the caller may have it
    torch.cuda.manual_seed(5)
    expected = torch.rand(3, device="cuda")
    torch.cuda.manual_seed(5)
    with masks.holding(model, {"fc1.weight": mask}):
        training.fit(model, there, epochs=1, l1=1e-4, **QUIET)
    assert torch.equal(torch.rand(3, device="cuda"), expected)
    assert (model.fc1.weight[~mask.cuda()] == 0).all()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_a_resume_file_says_bfloat16_and_is_taken_up(splits, tmp_path):
    model, there = fresh("lenet-5").cuda(), on_gpu(splits)
    training.fit(model, there, epochs=1, resume_from=tmp_path / "state.pt", **QUIET)
    again = fresh("lenet-5").cuda()
    with pytest.raises(ValueError, match="precision: 'torch.bfloat16' there, 'torch.float32' here"):
        training.fit(again, there, epochs=1, resume_from=tmp_path / "state.pt", precision=torch.float32, **QUIET)
    training.fit(again, there, epochs=1, resume_from=tmp_path / "state.pt", **QUIET)
    assert torch.equal(state(again).cpu(), state(model).cpu())


def test_our_sgd_is_torchs_without_the_import_of_the_compiler():
    """The same bits as torch's own optimizer, and `torch._dynamo`, which takes seconds to import, is not loaded by `fit`."""
    steps = []
    for kind in (training.fitting._SGD, torch.optim.SGD):
        torch.manual_seed(0)
        layer = nn.Linear(30, 20)
        optimizer = kind(layer.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3, fused=True)
        for _ in range(3):
            optimizer.zero_grad()
            layer(torch.randn(8, 30)).square().sum().backward()
            optimizer.step()
        state = optimizer.state_dict()["state"]
        steps.append([layer.weight.detach(), layer.bias.detach(), *(entry["momentum_buffer"] for entry in state.values())])
    assert all(torch.equal(*pair) for pair in zip(*steps, strict=True))
    script = (
        "import sys; from course_lib import data, models, training; splits = data.load('mnist', root='nowhere')\n"
        "training.fit(models.build('lenet-300-100'), splits, epochs=1, progress=False)\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
