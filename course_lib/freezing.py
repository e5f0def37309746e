"""Freezing: parts of a network that stay exactly as they are, whatever trains the rest."""

import contextlib
from collections.abc import Iterable, Iterator

from torch import nn


@contextlib.contextmanager
def frozen(model: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """Keep parameters, or whole modules, exactly as they are while anything trains `model`: any optimizer, any mode.

    They get no gradient, and they have their values in every forward pass and when the block ends, however it ends. A frozen
    module is in evaluation mode in every forward pass, so that the statistics of its batch norms stay, too.

    Args:
        model: what is trained in the block, by calling it.
        names: of parameters, such as 'fc1.weight', or of modules, such as 'fc1'; none freezes nothing.

    Raises:
        ValueError: a name that is neither a parameter nor a module of the model.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    still = {name: modules[name] for name in names if name in modules}
    places = [_place(model, modules, name) for name in names if name not in modules]
    for module in still.values():
        for part in module.modules():
            places += [(tensors, key) for tensors in (part._parameters, part._buffers) for key in tensors]
    values = [(*place, place[0][place[1]].detach().clone()) for place in places if place[0][place[1]] is not None]
    trained = [(tensors, key) for tensors, key, _ in values if tensors[key].requires_grad]

    def put_back(*_) -> None:
        for tensors, key, value in values:
            if tensors.get(key) is None or tensors[key].shape != value.shape:
                raise ValueError(f"retrain has replaced {key!r} by something else; a frozen parameter keeps its place and shape")
            tensors[key].data.copy_(value)
        for module in still.values():
            module.eval()

    for tensors, key in trained:
        tensors[key].requires_grad_(False)
        tensors[key].grad = None  # one from before would be a step of momentum or of weight decay
    hooks = [model.register_forward_pre_hook(put_back)] if values else []
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        put_back()
        for tensors, key in trained:
            tensors[key].requires_grad_(True)


def _place(model: nn.Module, modules: dict[str, nn.Module], name: str) -> tuple[dict, str]:
    """Where a parameter is looked up: the dictionary of its module, and its key there."""
    owner, _, key = name.rpartition(".")
    module = modules.get(owner, None if owner else model)
    if module is None or key not in module._parameters:
        parameters = ", ".join(name for name, _ in model.named_parameters())
        raise ValueError(f"names has {name!r}; the model's modules are {', '.join(modules)}, and its parameters {parameters}")
    return module._parameters, key
