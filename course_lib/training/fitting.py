"""Evaluation, and training on data that already lies on the device.

The same code serves CPU and CUDA. Training computes in bfloat16 where that is faster, on CUDA and for convolutions on a CPU with
instructions for it, and lays images out channels-last. Two calls with the same seed on the same CPU give the same bits, and so
does a call that was killed and resumed.
"""

import contextlib
import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from course_lib import masks
from course_lib.data import Batches, Split, Splits, batched
from course_lib.modes import evaluating
from course_lib.streams import stream
from course_lib.training import augmentation, resuming

SCHEDULES: dict[str, Callable[[float], float]] = {
    # progress in [0, 1] -> factor on the learning rate
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "one-cycle": lambda progress: min(progress / 0.2, (1.0 - progress) / 0.8),  # up for a fifth, then down to zero
}


@dataclass
class History:
    """What a training run went through: one row per epoch with epoch, loss, accuracy (on the training batches), lr, seconds."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    precision: str = ""  # what the matrix products were computed in: 'float32', 'bfloat16'

    def frame(self):
        """The rows as a pandas DataFrame, indexed by epoch."""
        import pandas as pd

        return pd.DataFrame(self.epochs).set_index("epoch")


@torch.no_grad()
def evaluate(model: nn.Module, batches: Batches, batch_size: int = 1000) -> float:
    """Return the accuracy in [0, 1]; computed in evaluation mode, the mode is put back afterwards, also after an error.

    On CUDA it computes as `fit` does, in bfloat16 and channels-last; on the CPU in the dtype and layout of the arguments.

    Args:
        model: maps images (N, C, height, width) to scores (N, classes).
        batches: a split, a DataLoader or a list of (images, labels); moved to the model's device batch by batch.
        batch_size: images at a time, of a split.

    Raises:
        ValueError: batches without images, or a batch size below 1.
    """
    device = next((p.device for p in model.parameters()), None)
    right = seen = 0
    with evaluating(model):
        for images, labels in batched(batches, batch_size, device):
            scores = _scores(model, images, _arithmetic(model, images)) if images.is_cuda else model(images)
            right += (scores.argmax(1) == labels).sum()
            seen += len(labels)
    return int(right) / seen


def fit(
    model: nn.Module,
    splits: Splits,
    *,
    epochs: int,
    lr: float = 0.1,
    schedule: str = "one-cycle",
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    l1: float = 0.0,
    batch_size: int = 128,
    augment: str | None = None,
    frozen: Sequence[str] = (),
    precision: torch.dtype | None = None,
    seed: int = 0,
    resume_from: str | Path | None = None,
    progress: bool = True,
) -> History:
    """Trains `model` in place with SGD and Nesterov momentum on cross-entropy; leaves it in evaluation mode.

    Args:
        model: on the device of the splits. Parametrisations of `torch.nn.utils.prune` are honoured.
        splits: only `splits.train` is read.
        epochs: passes over the training set.
        lr: peak learning rate.
        schedule: 'constant', 'linear' (down to zero) or 'one-cycle'.
        momentum: of SGD.
        weight_decay: L2 penalty on weights (parameters of two dimensions or more), as SGD's weight decay.
        l1: L1 penalty on the same parameters: its subgradient l1 * sign(w) joins the gradient.
        batch_size: images a step; the last step of an epoch may have fewer.
        augment: None, 'shift' (by up to 2 pixels) or 'crop-flip' (shift by up to 4 pixels, mirror half of the images).
        frozen: names of modules that stay as they are, statistics of batch norm included.
        precision: the dtype of autocast; default as `fastest_precision` finds, and the bar and the history say which.
        seed: decides order, augmentation and dropout, anew in every epoch.
        resume_from: a file that holds the state after every epoch. If it exists, training goes on from it, and ends
            bit-identical to an uninterrupted run (on the CPU, at the same number of threads).
        progress: show a bar with loss, accuracy and images per second.

    Returns:
        The history. Nothing comes back from a run that was interrupted: KeyboardInterrupt leaves `fit`, the model is in
        evaluation mode with whatever weights it had by then, and `resume_from` holds the last whole epoch.

    Raises:
        ValueError: an argument out of its range, an unknown name, or a resume file of another run.
    """
    settings: dict[str, Any] = dict(
        epochs=epochs, lr=lr, schedule=schedule, momentum=momentum, weight_decay=weight_decay, l1=l1, batch_size=batch_size,
        augment=augment, frozen=list(frozen), seed=seed, examples=len(splits.train.labels),
    )  # fmt: skip
    _check(model, settings)
    how = _arithmetic(model, splits.train.images, precision)
    settings |= {"precision": str(how[0])} | (resuming.identity(model, masks.held(model)) if resume_from is not None else {})
    stored = resuming.stored(resume_from, settings, splits.train.images.device)
    steps = -(-len(splits.train.labels) // batch_size)
    with _training(model, frozen, how[1]):
        optimizer = _optimizer(model, frozen, lr, momentum, weight_decay)
        history = History(resuming.restore(stored, model, optimizer), str(how[0]).removeprefix("torch."))
        about = dict(desc=f"training in {history.precision}", leave=False, disable=not progress)
        with tqdm(total=epochs * steps, initial=len(history.epochs) * steps, **about) as bar:
            for epoch in range(len(history.epochs), epochs):
                rates = [lr * SCHEDULES[schedule]((epoch * steps + step + 0.5) / (epochs * steps)) for step in range(steps)]
                pairs = batches(splits.train, batch_size, augment, seed=stream(seed, "epoch", epoch))
                row = _epoch(model, optimizer, zip(rates, pairs, strict=True), how, l1, bar)
                history.epochs.append(dict(epoch=epoch + 1, **row))
                if resume_from is not None:
                    resuming.store(resume_from, model, optimizer, settings, history.epochs)
    return history


def _epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, steps: Iterable, how: "Arithmetic", l1: float, bar: tqdm
) -> dict[str, float]:
    """One pass over (learning rate, (images, labels)); gives the row of the history."""
    start, seen = time.perf_counter(), 0
    totals = torch.zeros(2, device=next(model.parameters()).device)
    for rate, (x, y) in steps:
        for group in optimizer.param_groups:
            group["lr"] = rate
        totals += _step(model, optimizer, x, y, how, l1)
        seen += len(y)
        bar.update()
        if bar.n % 20 == 0:  # reading a figure waits for the device
            loss, accuracy = (totals / seen).tolist()
            images_a_second = seen / (time.perf_counter() - start)
            bar.set_postfix(loss=f"{loss:.3f}", acc=f"{accuracy:.1%}", img_s=f"{images_a_second:.0f}")
    loss, accuracy = (totals / seen).tolist()
    return dict(loss=loss, accuracy=accuracy, lr=rate, seconds=time.perf_counter() - start)


Arithmetic = tuple[torch.dtype, torch.memory_format]


def _arithmetic(model: nn.Module, images: Tensor, precision: torch.dtype | None = None) -> Arithmetic:
    """The dtype of autocast, and the layout of images: channels-last in front of convolutions."""
    planes = images.dim() == 4 and any(isinstance(module, nn.Conv2d) for module in model.modules())
    layout = torch.channels_last if planes else torch.contiguous_format
    return precision or fastest_precision(model, images.device), layout


def fastest_precision(model: nn.Module, device: torch.device) -> torch.dtype:
    """Return bfloat16 on CUDA, and for networks with convolutions on a CPU that has instructions for it; otherwise float32.

    Decided by what the processor reports, since a measurement could decide otherwise from run to run. On a processor with such
    instructions convolutions trained about twice as fast in bfloat16, and dense layers alone as fast as in float32.
    """
    if device.type == "cuda":
        return torch.bfloat16
    convolutions = any(isinstance(module, nn.Conv2d) for module in model.modules())
    # torch's own test; without it torch would compute bfloat16 too, but slower than float32
    return torch.bfloat16 if convolutions and torch.cpu._is_avx512_bf16_supported() else torch.float32


def _scores(model: nn.Module, images: Tensor, how: Arithmetic) -> Tensor:
    precision, layout = how
    with torch.autocast(images.device.type, precision, enabled=precision != torch.float32):
        return model(images.contiguous(memory_format=layout))


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, how: Arithmetic, l1: float) -> Tensor:
    """One step of SGD; gives (sum of losses, number right) as a tensor, so that nothing waits for the device."""
    scores = _scores(model, x, how)
    loss = F.cross_entropy(scores.float(), y)
    optimizer.zero_grad()
    loss.backward()
    if l1:
        for weight in optimizer.param_groups[0]["params"]:
            if weight.grad is not None:  # as for weight decay: what takes no part in the loss stays as it is
                weight.grad.add_(weight.detach().sign(), alpha=l1)
    optimizer.step()
    return torch.stack([loss.detach() * len(y), (scores.detach().argmax(1) == y).sum()])


def batches(split: Split, batch_size: int, augment: str | None, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """One pass in random order: (images, labels), augmented. The global random state of the CPU and of the images' device
    is seeded too, for dropout; that of other GPUs is left alone."""
    torch.default_generator.manual_seed(seed)
    if split.images.is_cuda:
        with torch.cuda.device(split.images.device):
            torch.cuda.manual_seed(seed)
    order = torch.randperm(len(split.labels), generator=torch.Generator().manual_seed(seed)).to(split.labels.device)
    random = torch.Generator(split.images.device).manual_seed(seed)
    for chosen in order.split(batch_size):
        yield augmentation.augmented(split.images[chosen], augment, random), split.labels[chosen]


class _SGD(torch.optim.SGD):
    """torch's SGD without its calls of `torch._dynamo`: its import takes three seconds, and serves `torch.compile` alone."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.SGD.step))
    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)


def _optimizer(model: nn.Module, frozen: Sequence[str], lr: float, momentum: float, weight_decay: float) -> torch.optim.SGD:
    still = {id(p) for name in frozen for p in model.get_submodule(name).parameters()}
    moving = [p for p in model.parameters() if id(p) not in still]
    weights, others = [p for p in moving if p.dim() > 1], [p for p in moving if p.dim() <= 1]
    groups = [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return _SGD(groups, lr=lr, momentum=momentum, nesterov=momentum > 0, fused=True)


@contextlib.contextmanager
def _training(model: nn.Module, frozen: Sequence[str], layout: torch.memory_format) -> Iterator[None]:
    """Training mode without the frozen modules.

    Afterwards, however the block ends, the model is in evaluation mode and laid out as usual, what was frozen can be trained
    again, and the random state is the caller's.
    """
    still = [p for name in frozen for p in model.get_submodule(name).parameters() if p.requires_grad]
    devices = {parameter.device for parameter in model.parameters() if parameter.is_cuda}
    try:
        model.train().to(memory_format=layout)
        for name in frozen:
            model.get_submodule(name).eval()
        for parameter in still:
            parameter.requires_grad_(False)
        with torch.random.fork_rng(devices=list(devices)):  # by default it would wake every GPU
            yield
    finally:
        for parameter in still:
            parameter.requires_grad_(True)
        model.to(memory_format=torch.contiguous_format).eval()


def _check(model: nn.Module, settings: dict[str, Any]) -> None:
    allowed = {"schedule": tuple(SCHEDULES), "augment": (None, *augmentation.KINDS)}
    for name, values in allowed.items():
        if settings[name] not in values:
            raise ValueError(f"{name} is {settings[name]!r}; allowed are {', '.join(map(repr, values))}")
    least = {"epochs": 1, "batch_size": 1, "examples": 1, "lr": 0, "momentum": 0, "weight_decay": 0, "l1": 0}
    for name, value in least.items():
        if settings[name] < value:
            raise ValueError(f"{name} is {settings[name]}; allowed are {value} and above")
    modules = {name for name, _ in model.named_modules() if name}
    for name in settings["frozen"]:
        if name not in modules:
            raise ValueError(f"frozen names {name!r}; the model's modules are {', '.join(sorted(modules))}")
