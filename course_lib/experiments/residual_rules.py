"""He et al.'s two rules for residual networks: samplers in front of the first layers of branches, and corrected targets.

Plans here are by the layers that read: layer -> something about the channels that it reads.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from course_lib import plans
from course_lib.data import Batches
from course_lib.papers import channel_pruning as paper
from course_lib.result import Result
from course_lib.surgery.inputs import inputs_of

# Both rules, together and apart: (samplers in front of the first layers, corrected targets of the last ones)
RULES = {"neither": (False, False), "samplers": (True, False), "correction": (False, True), "both": (True, True)}
BLOCKS = {"resnet-20": 3, "resnet-56": 9}  # in a stage


def ratios(network: str, samplers: bool) -> dict[str, float]:
    """Return relative widths for a CIFAR ResNet: how many channels the layers of its blocks read.

    Without samplers the last layer of a block alone reads fewer; with them the first one too, 2 for every 3 of the last: the
    ends of the paper's 2 : 4 : 3 for blocks of three layers. Stages keep 1, 1.25 and 1.5, since shallow ones are more redundant.
    Blocks where the size of the map changes are sensitive, as the paper says, and keep 1.4 times more.
    """
    found = {}
    for stage in (1, 2, 3):
        for block in range(BLOCKS[network]):
            more = (1.0, 1.25, 1.5)[stage - 1] * (1.4 if stage > 1 and block == 0 else 1.0)
            first = {f"stage{stage}.{block}.conv1": 2 * more} if samplers else {}
            found |= first | {f"stage{stage}.{block}.conv2": 3 * more}
    return found


def prune(
    model: nn.Module, batches: Batches, network: str, rules: str, *, rate: float, positions: int, images: int, seed: int
) -> Result:
    """Return a CIFAR ResNet pruned to `rate` times fewer MACs under some of RULES; other arguments as for the paper's `prune`."""
    samplers, corrected = RULES[rules]
    example_input = batches.images[:1]
    plan = plan_for(model, ratios(network, samplers), rate, example_input)
    keep, sampled = by_output(plan, producers(model, plan, example_input))
    how = dict(positions=positions, images=images, corrected=corrected, seed=seed)
    return paper.prune(model, batches, keep, sampled=sampled, **how)


def plan_for(model: nn.Module, relative: Mapping[str, float], rate: float, example_input: Tensor) -> dict[str, int]:
    """Return how many channels layers read at `rate` times fewer MACs, in proportion to relative widths."""
    computed_by = producers(model, relative, example_input)
    both = by_output(relative, computed_by)
    keep, sampled = plans.keep_and_sampled_for_speedup(model, *both, rate, example_input)
    return {reader: sampled[reader] if layer is None else keep[layer] for reader, layer in computed_by.items()}


def producers(model: nn.Module, layers: Iterable[str], example_input: Tensor) -> dict[str, str | None]:
    """Return the layer whose outputs each of `layers` alone reads; None where others read them too."""
    sources = inputs_of(model, layers, example_input)
    return {reader: source.producers[-1] if source.producers else None for reader, source in sources.items()}


def by_output(plan: Mapping[str, Any], computed_by: Mapping[str, str | None]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a plan as `channel_pruning.prune` takes it: by the layers that compute, and by those behind samplers.

    Args:
        plan: layer -> something about the channels that it reads.
        computed_by: from `producers`.
    """
    keep = {layer: plan[reader] for reader, layer in computed_by.items() if layer is not None}
    return keep, {reader: plan[reader] for reader, layer in computed_by.items() if layer is None}
