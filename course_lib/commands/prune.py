"""`python -m course_lib prune` and `methods`: a paper's method on a checkpoint of one's own, from the command line."""

import inspect
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from course_lib import cost, methods, models, training
from course_lib.data import Batches, example
from course_lib.surgery.examples import example_input


def command(
    checkpoint: Path, *, model: str, method: str, settings: list[str], data: Path | None, size: int, batch_size: int, out: Path
) -> None:
    """Compress the network of a checkpoint, write it, and print what it cost before and after.

    Args:
        checkpoint: a state dict, as a safetensors file or as `torch.save` writes it.
        model: 'torchvision:NAME', or one of `models.NAMES`.
        method: one of `methods.METHODS`.
        settings: 'name=value', the value as JSON or a plain word.
        data: a folder of images, a folder for each class in it; None for methods that look at no images.
        size: side of the images in pixels.
        batch_size: images at a time.
        out: the file to write, for `methods.load`.

    Raises:
        ValueError: an unknown model or method, a checkpoint of another network, a setting that is none, a method that needs
            images without `data`, or `out` is the checkpoint.
        FileNotFoundError: no such checkpoint or folder.
    """
    if out.resolve() == checkpoint.resolve():
        raise ValueError(f"--out is {out}, the file that is read; name another one")
    if method in methods.METHODS and methods.METHODS[method].needs_images and data is None:
        raise ValueError(f"{method} looks at images to choose what it removes; name a folder of them by --data")
    network = loaded(model, state_dict(checkpoint)).eval()
    batches = None if data is None else image_folder(data, size, batch_size)
    result = methods.apply(method, network, batches, **parsed(settings))
    result.save(out)
    images = example_input(network) if batches is None else example(batches)
    before = cost.report(network, images)
    print(cost.report(result.model, images, baseline=before))
    if batches is not None:
        print(f"accuracy on {data}: {training.evaluate(network, batches):.2%} -> {training.evaluate(result.model, batches):.2%}")
    print(f"{checkpoint}: {checkpoint.stat().st_size:,} bytes; {out}: {out.stat().st_size:,} bytes")


def listing(names: list[str]) -> str:
    """Return a line for each method: its name, the paper and what it does; of those named, their settings too.

    Raises:
        ValueError: an unknown name.
    """
    lines = []
    for name in names or methods.METHODS:
        if name not in methods.METHODS:
            raise ValueError(f"method is {name!r}; allowed are {', '.join(methods.METHODS)}")
        method = methods.METHODS[name]
        images = "looks at images" if method.needs_images else "needs no images"
        lines.append(f"{name:20} {method.paper:10} {method.what}; {images}")
        if names:
            lines += [
                f"    {setting} = {getattr(default, '__name__', repr(default))}" for setting, default in method.settings().items()
            ]
            lines += ["", inspect.getdoc(method.run)]
    return "\n".join(lines)


def state_dict(checkpoint: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name; of a dict that holds one under 'state_dict' or 'model', that one."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not checkpoint.is_file():
        raise FileNotFoundError(f"no checkpoint {checkpoint}")
    try:
        return load_file(checkpoint)
    except SafetensorError:
        pass
    try:
        found = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as reason:
        raise ValueError(
            f"checkpoint {checkpoint} is neither a safetensors file nor weights of torch.save ({reason})"
        ) from reason
    for key in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not (isinstance(found, dict) and found and all(isinstance(value, Tensor) for value in found.values())):
        raise ValueError(f"checkpoint {checkpoint} holds a {type(found).__name__}; expected a state dict")
    return found


def loaded(model: str, tensors: dict[str, Tensor]) -> nn.Module:
    """Return the network 'torchvision:NAME' or of this course, with these weights; the classes are those of its last layer."""
    classes = len(list(tensors.values())[-1])
    library, _, name = model.rpartition(":")
    try:
        if library == "torchvision":
            from torchvision.models import get_model

            # Not every network has the keyword; one that has not cannot have another number of classes
            network = get_model(name, num_classes=classes)
        elif library == "":
            network = models.build(name, num_classes=classes)
        else:
            raise ValueError(f"model is {model!r}; expected torchvision:NAME, or one of this course's names")
    except (ValueError, TypeError, KeyError) as reason:
        raise ValueError(f"--model is {model!r}: {reason}") from reason
    try:
        network.load_state_dict(tensors)
    except RuntimeError as reason:
        raise ValueError(f"the checkpoint is of another network than {model}: {reason}") from reason
    return network


def image_folder(folder: Path, size: int, batch_size: int) -> Batches:
    """Return a DataLoader over `folder`/<class>/*.jpg, with ImageNet's usual preprocessing."""
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    steps = [transforms.Resize(size), transforms.CenterCrop(size), transforms.ToTensor()]
    normal = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    try:
        images = ImageFolder(str(folder), transforms.Compose([*steps, normal]))
    except FileNotFoundError as reason:
        raise ValueError(f"--data is {folder}, which holds no folder of images for each class: {reason}") from reason
    # Shuffled by a fixed seed, so that the first images are of all classes
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0)).tolist()
    return DataLoader(torch.utils.data.Subset(images, order), batch_size=batch_size)


def parsed(settings: list[str]) -> dict:
    """Return ['keep=0.5', 'codes=product'] as a dict; a value is JSON, or else a plain word.

    Raises:
        ValueError: a setting without '='.

    >>> parsed(["keep=0.5", "codes=product", 'sparsity={"fc1": 0.9}'])
    {'keep': 0.5, 'codes': 'product', 'sparsity': {'fc1': 0.9}}
    """
    found = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"--set is {setting!r}; expected name=value")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found
