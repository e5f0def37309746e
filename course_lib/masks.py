"""Masks: which single weights are pruned, and how they stay exactly zero whatever trains the network.

A mask is a bool tensor of its parameter's shape, True where a weight is kept; masks are keyed by parameter name.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_HELD: WeakKeyDictionary[nn.Module, Mapping[str, Tensor]] = WeakKeyDictionary()


def weight_layers(model: nn.Module, layers: Iterable[str] | None = None) -> dict[str, nn.Module]:
    """Return the layers whose single weights can be pruned or coded, by name in the model's order; or those that `layers` names.

    Raises:
        ValueError: `layers` is empty or names something that is not a dense or convolutional layer of the model.
    """
    found = {name: module for name, module in model.named_modules() if isinstance(module, LAYERS)}
    if layers is None:
        return found
    wanted = list(layers)
    if not wanted:
        raise ValueError(f"layers is empty; the model's dense and convolutional layers are {', '.join(found)}")
    for name in wanted:
        if name not in found:
            raise ValueError(f"layers names {name!r}; the model's dense and convolutional layers are {', '.join(found)}")
    return {name: module for name, module in found.items() if name in wanted}


@torch.no_grad()
def apply(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set the pruned weights of `model` to zero, in place.

    Raises:
        ValueError: a mask names no parameter of the model, or is not bool of its parameter's shape.
    """
    check(model, masks)
    parameters = dict(model.named_parameters())
    for name, mask in masks.items():
        parameters[name].mul_(mask.to(parameters[name].device))


def of_zeros(model: nn.Module, layers: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Return a mask for the weight of each of the named layers of `model` that holds zeros: False where it is zero."""
    found = {f"{name}.weight".removeprefix("."): layer.weight.detach() != 0 for name, layer in layers.items()}
    return {name: mask for name, mask in found.items() if not mask.all()}


@contextlib.contextmanager
def holding(model: nn.Module, masks: Mapping[str, Tensor]) -> Iterator[None]:
    """Keep the pruned weights at zero while anything trains `model`: any optimizer, also one with momentum from before.

    They are zero in every forward pass and get no gradient, and they are zero when the block ends, however it ends. Nothing
    else of the model changes: parameters, names and state dict stay what they are, and no hook is left.

    Args:
        model: what is trained in the block, by calling it.
        masks: parameter name -> bool mask; copies on the device of the parameters are used.

    Raises:
        ValueError: a mask names no parameter of the model, or is not bool of its parameter's shape.
    """
    check(model, masks)
    parameters = dict(model.named_parameters())
    held = {name: mask.to(parameters[name].device) for name, mask in masks.items()}

    def zero(*_) -> None:
        # Looked up anew, since whoever trains may put other parameters in their place
        now = dict(model.named_parameters()) if held else {}
        for name, mask in held.items():
            if name not in now or now[name].shape != mask.shape:
                raise ValueError(f"retrain has replaced {name!r} by something else; a pruned weight keeps its name and shape")
        if held:
            # .data: nothing that autograd has seen changes, since what is multiplied by 0 was 0 there
            torch._foreach_mul_([now[name].data for name in held], [mask.to(now[name].device) for name, mask in held.items()])

    hooks = [model.register_forward_pre_hook(zero)]
    hooks += [parameters[name].register_hook(mask.mul) for name, mask in held.items() if parameters[name].requires_grad]
    zero()
    _HELD[model] = masks
    try:
        yield
    finally:
        del _HELD[model]
        for hook in hooks:
            hook.remove()
        zero()


def held(model: nn.Module) -> Mapping[str, Tensor]:
    """Return the masks that `holding` keeps in force on `model` now; without any, an empty mapping."""
    return _HELD.get(model, {})


def check(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless each mask is bool, and of the shape of the parameter that it names."""
    parameters = dict(model.named_parameters())
    for name, mask in masks.items():
        if name not in parameters:
            raise ValueError(f"masks names {name!r}; the model's parameters are {', '.join(parameters)}")
        if mask.shape != parameters[name].shape or mask.dtype != torch.bool:
            raise ValueError(
                f"masks[{name!r}] is {mask.dtype} of shape {tuple(mask.shape)}; "
                f"expected torch.bool of shape {tuple(parameters[name].shape)}"
            )
