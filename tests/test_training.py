"""fit and evaluate: exactness, masks, seeds, interrupts, and a resume after a real kill."""

import copy
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from course_lib import models, training
from course_lib.data import Split, Splits


@pytest.fixture
def splits() -> Splits:
    """300 random digits that a network can learn: the label shifts the mean of a patch."""
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (300,), generator=random)
    images = torch.randn(300, 1, 28, 28, generator=random)
    for label in range(10):
        images[labels == label, 0, 2 * label + 4 : 2 * label + 6, 8:20] += 3
    return Splits(Split(images, labels), Split(images[:100], labels[:100]), "random", "random")


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
    masks = {n: torch.rand(p.shape) < 0.3 for n, p in model.named_parameters() if p.dim() > 1}
    training.fit(model, splits, epochs=2, masks=masks, l1=1e-3, weight_decay=1e-2, **QUIET)
    for name, parameter in model.named_parameters():
        if name in masks:
            assert (parameter[~masks[name]] == 0).all()
            assert (parameter[masks[name]] != 0).all()


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
    batch = Splits(Split(images, labels), splits.test, "random", "random")
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


def test_an_interrupt_keeps_what_was_learnt(splits, monkeypatch):
    steps = 0
    original = training._step

    def interrupted(*arguments):
        nonlocal steps
        steps += 1
        if steps == 8:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(training, "_step", interrupted)
    model = fresh()
    before = state(model)
    history = training.fit(model, splits, epochs=5, **QUIET)
    assert history.interrupted and len(history.epochs) == 1  # 5 steps an epoch
    assert not torch.equal(state(model), before) and not model.training


RUN = """
import torch
from course_lib import models, training
from course_lib.data import Split, Splits
torch.set_num_threads(1)
torch.manual_seed(0)
split = Split(torch.randn(600, 1, 28, 28), torch.randint(10, (600,)))
model = models.build("lenet-5")
splits = Splits(split, split, "random", "random")
training.fit(model, splits, epochs=6, lr=0.05, augment="shift", resume_from={resume!r}, progress=False, seed=3)
torch.save(model.state_dict(), {out!r})
"""


def test_a_killed_run_resumes_bit_identical(tmp_path):
    """A real process is killed (SIGKILL) after its first stored epoch; a second one finishes."""

    def command(resume: Path, out: Path) -> list[str]:
        return [sys.executable, "-c", RUN.format(resume=str(resume), out=str(out))]

    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}

    whole, resumed, state_file = tmp_path / "whole.pt", tmp_path / "resumed.pt", tmp_path / "state.pt"
    exec(RUN.format(resume=str(tmp_path / "other.pt"), out=str(whole)), {})

    process, deadline = subprocess.Popen(command(state_file, resumed), env=environment), time.monotonic() + 60
    while process.poll() is None and not state_file.exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run was over before it could be killed"
    done = len(torch.load(state_file)["epochs"])
    assert 1 <= done < 6
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


def test_shifts_move_whole_images_and_nothing_else():
    images = torch.arange(28.0 * 28).view(1, 1, 28, 28).expand(200, 1, 28, 28)
    shifted = training.augmented(images, "shift", torch.Generator().manual_seed(0))
    padded = np.pad(images[0, 0].numpy(), 2, mode="reflect")
    places = [padded[d : d + 28, r : r + 28] for d in range(5) for r in range(5)]
    found = {next(i for i, place in enumerate(places) if np.array_equal(place, image)) for image in shifted[:, 0].numpy()}
    assert len(found) == 25  # all shifts occur


def test_crop_flip_mirrors_about_half():
    images = torch.zeros(2000, 3, 32, 32)
    images[..., 12:20, 6:8] = 1  # left of the middle, beyond the reach of shift and reflection
    out = training.augmented(images, "crop-flip", torch.Generator().manual_seed(0))
    right = (out[..., 16:].sum((1, 2, 3)) > out[..., :16].sum((1, 2, 3))).float().mean()
    assert 0.45 < right < 0.55


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(epochs=0), "epochs is 0"),
        (dict(epochs=1, schedule="cosine"), "'constant', 'linear', 'one-cycle'"),
        (dict(epochs=1, augment="mirror"), "'shift', 'crop-flip'"),
        (dict(epochs=1, frozen=["fc9"]), "fc9.*fc1"),
        (dict(epochs=1, masks={"fc9.weight": torch.ones(1, dtype=torch.bool)}), "fc9.weight.*fc1.weight"),
        (dict(epochs=1, masks={"fc1.weight": torch.ones(784, 300, dtype=torch.bool)}), r"\(784, 300\).*\(300, 784\)"),
        (dict(epochs=1, masks={"fc1.weight": torch.ones(300, 784)}), "float32.*torch.bool"),
        (dict(epochs=1, l1=-1), "l1 is -1"),
    ],
)
def test_bad_arguments_say_what_is_allowed(splits, arguments, message):
    with pytest.raises(ValueError, match=message):
        training.fit(fresh(), splits, **{"progress": False, **arguments})


def test_evaluate_refuses_nothing_to_evaluate(splits):
    empty = Split(splits.test.images[:0], splits.test.labels[:0])
    with pytest.raises(ValueError, match="no examples"):
        training.evaluate(fresh(), empty)
    with pytest.raises(ValueError, match="batch_size is 0"):
        training.evaluate(fresh(), splits.test, 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_trains_in_bfloat16_to_about_the_same_accuracy(splits):
    model = fresh("lenet-5").cuda()
    there = Splits(*(Split(s.images.cuda(), s.labels.cuda()) for s in (splits.train, splits.test)), "random", "random")
    training.fit(model, there, epochs=8, **QUIET)
    assert training.evaluate(model, there.test) > 0.5
