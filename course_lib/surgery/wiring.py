"""Which layers compute, carry and read the output channels of a layer, and which rows and columns of their weights these are.

torch-pruning traces the network (Fang et al. 2023, DepGraph); `channel_maps` adds rules to it. What none of them knows is
found by `zeroing`.
"""

import copy
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch_pruning
from torch import Tensor, nn

from course_lib.surgery.channel_maps import channel_padding, map_concat, map_padding, map_reshape, map_split

CUTTABLE = (nn.Linear, nn.Conv2d)
LIMIT = 5_000_000  # pairs of channels followed for one layer; a network of ordinary layers needs a hundredth of that
MIXED = 64  # channels that end in one place; with more of them a layer's channels cannot be told apart
OPTYPE = torch_pruning.ops.OPTYPE
ATTENTION = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
Pair = tuple[int, int]  # (index in a module, channel of the layer that is asked about)

# Names of autograd's nodes -> the operation in a user's words, where it moves channels, mixes them or counts them
OPERATIONS = {
    "Split": "chunk or split", "Slice": "a slice", "Unbind": "unbind", "Select": "indexing", "Index": "indexing",
    "Flip": "flip", "Roll": "roll", "PixelShuffle": "PixelShuffle", "PixelUnshuffle": "PixelUnshuffle", "Glu": "GLU",
    "Softmax": "softmax", "Mean": "a mean", "Sum": "a sum", "Bmm": "a matrix product or einsum", "LayerNorm": "layer_norm",
    "GroupNorm": "group_norm", "ScaledDotProduct": "attention", "ChannelShuffle": "channel_shuffle", "Permute": "permute",
    "Transpose": "transpose", "View": "view or reshape", "ConstantPad": "pad", "Repeat": "repeat",
    "AvgPool3D": "a local response norm",
}  # fmt: skip


ORDINARY = {
    "Mean",
    "Sum",
    "Permute",
    "Transpose",
    "View",
    "ConstantPad",
    "Slice",
    "Repeat",
}  # named only where nothing else is found


@dataclass(frozen=True)
class Coupling:
    """The layers that are tied to the output channels of a layer, by module name.

    A producer computes the channels (several do where a residual addition ties them), a consumer reads them.
    """

    producers: tuple[str, ...]  # row i of each one's weight computes channel i
    consumers: dict[str, Tensor]  # (C, r): the r input columns that read a channel, r > 1 after a flatten
    others: dict[str, Tensor]  # (C, r): batch norms, and what else holds parameters of a channel: where in them
    is_output: bool  # whether they are, or are part of, the network's output
    fixed: tuple[int, ...] = ()  # channels that stay: a pad or slice of fixed width puts zeros, or nothing, in their place


@dataclass(frozen=True)
class Member:
    """A module, parameter or operation that has the channels of a layer, and its index of each."""

    name: str | None  # of the module or parameter; None for an operation
    node: torch_pruning.dependency.Node
    cut: Callable  # of torch-pruning: cut(module, indices) removes them in place
    pairs: dict[Pair, None]  # an ordered set

    @property
    def reads(self) -> bool:
        """Whether these are inputs of a layer whose outputs are others."""
        return self.cut.__name__ == "prune_in_channels"

    @property
    def is_parameter(self) -> bool:
        return self.node.type == OPTYPE.PARAMETER

    @property
    def is_output(self) -> bool:
        return self.node.type == OPTYPE.OUTPUT

    @property
    def is_padding(self) -> bool:
        return self.name is None and channel_padding(self.node) is not None

    def in_padding(self) -> list[int]:
        """Channels of the layer asked about that are only padding here."""
        if not self.is_padding:
            return []
        first, channels = channel_padding(self.node)
        return [channel for index, channel in self.pairs if not first <= index < first + channels]

    def indices(self) -> list[int]:
        return sorted({index for index, _ in self.pairs})

    def columns(self, channels: int) -> Tensor | None:
        """(C, r): the indices of each channel; None where some channels have fewer than others."""
        of_channel: list[list[int]] = [[] for _ in range(channels)]
        for index, channel in self.pairs:
            of_channel[channel].append(index)
        equal = len({len(indices) for indices in of_channel}) == 1
        return torch.tensor(of_channel) if equal else None


class Wiring:
    """A network as a graph of its layers.

    Raises:
        ValueError: the network cannot be traced with the example input; the message gives the reason.
    """

    def __init__(self, model: nn.Module, example_input: Tensor):
        self.model = copy.deepcopy(model).requires_grad_(True)
        self.names = {module: name for name, module in self.model.named_modules()}
        self.graph = _Graph()
        self.outputs: list[Tensor] = []
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what torch-pruning guesses is checked afterwards
                self.graph.build_dependency(
                    self.model,
                    example_input.clone(),  # gradients cannot be followed from an inference tensor
                    output_transform=self._keep_outputs,
                )
            for node in self.graph.module2node.values():
                map_split(node)
                map_concat(node)
                map_reshape(node)
                map_padding(node)
        except Exception as reason:
            raise ValueError(
                f"the network, a {type(model).__name__}, cannot be traced with example_input of shape "
                f"{tuple(example_input.shape)} ({one_line(reason)})"
            ) from reason

    def _keep_outputs(self, outputs) -> list[Tensor]:
        # one operation more after every output: so each has a node of its own, whatever computes it
        self.outputs = [output * 1 for output in torch_pruning.utils.flatten_as_list(outputs)]
        return self.outputs

    def members(self, layer: str, channels: Iterable[int]) -> list[Member]:
        """Everything that has these output channels of a layer, the layer first.

        Raises:
            ValueError: the layer is not in the graph, or its channels are mixed with too many others to follow them.
        """
        module, channels = self.model.get_submodule(layer), list(channels)
        if module not in self.graph.module2node:
            raise ValueError(self._why_missing(layer))
        root = self.graph.module2node[module]
        cut = self.graph.get_pruner_of_module(module).prune_out_channels
        found: dict[tuple, dict[Pair, None]] = {(root, cut): {(channel, channel): None for channel in channels}}
        waiting = [(root, cut, list(found[root, cut]))]
        work = 0
        while waiting:
            node, cut, pairs = waiting.pop()
            for edge in node.dependencies:
                if not edge.is_triggered_by(cut):
                    continue
                seen = found.setdefault((edge.target, edge.handler), {})
                try:
                    new = [pair for pair in _along(edge, pairs) if pair not in seen]
                except Exception as reason:
                    raise ValueError(self._untraced(layer, f" ({one_line(reason)})")) from reason
                seen.update(dict.fromkeys(new))
                if new:
                    waiting.append((edge.target, edge.handler, new))
                work += len(pairs)
                if work > LIMIT or len(seen) > MIXED * len(channels) and len(seen) > MIXED * len({index for index, _ in seen}):
                    raise ValueError(self._untraced(layer))
        return [Member(self._name(node), node, cut, pairs) for (node, cut), pairs in found.items() if pairs]

    def _untraced(self, layer: str, reason: str = "") -> str:
        passed = self.operations(layer) or "the model"
        return f"layer {layer!r} cannot be traced: its channels are mixed with others by {passed}{reason}"

    def operations(self, layer: str) -> str:
        """The operations between a layer and its readers that move, mix or count channels, in words; "" for none."""
        found: dict[str, bool] = {}
        waiting, seen = list(self.graph.module2node[self.model.get_submodule(layer)].outputs), set()
        while waiting:
            node = waiting.pop(0)
            if node in seen or isinstance(node.module, CUTTABLE):
                continue
            seen.add(node)
            name = "" if node.module in self.names or node.grad_fn is None else node.grad_fn.name()
            for start, words in OPERATIONS.items():
                if start in name:
                    found[words] = start in ORDINARY
            if isinstance(node.module, ATTENTION):
                found["attention"] = False
            waiting += node.outputs
        unusual = [words for words, ordinary in found.items() if not ordinary]
        return ", ".join(unusual or found)

    def coupling(self, layer: str) -> Coupling:
        """The layers tied to the output channels of a layer."""
        channels = len(self.model.get_submodule(layer).weight)
        members = self.members(layer, range(channels))
        fixed = {channel for member in members for channel in member.in_padding()}
        consumers: dict[str, Tensor] = {}
        others: dict[str, Tensor] = {}
        producers = self.producers(members, channels)
        for member in members:
            if not member.name or member.is_parameter or member.name in producers and not member.reads:
                continue
            columns = member.columns(channels)
            if columns is None:
                counts = torch.bincount(torch.tensor([channel for _, channel in member.pairs]), minlength=channels)
                fixed |= set((counts < counts.max()).nonzero().flatten().tolist())
            elif member.reads and is_plain(member.node.module):
                consumers[member.name] = columns
            else:
                others[member.name] = columns
        is_output = any(member.is_output for member in members)
        return Coupling(producers, consumers, others, is_output, tuple(sorted(fixed)))

    def producers(self, members: Sequence[Member], channels: int) -> tuple[str, ...]:
        """Dense layers and ungrouped convolutions of which row i computes channel i."""
        whole = [(channel, channel) for channel in range(channels)]
        return tuple(
            member.name
            for member in members
            if is_plain(member.node.module) and not member.reads and all(pair in member.pairs for pair in whole)
        )

    def plain_layers(self) -> list[str]:
        """The dense layers and ungrouped 2-d convolutions of the graph, in the model's order."""
        return [name for name, module in self.model.named_modules() if is_plain(module) and module in self.graph.module2node]

    def size(self, member: Member) -> int | None:
        """How many inputs or outputs a module has, where it loses some."""
        if member.name is None:
            return None
        graph = self.graph
        return graph.get_in_channels(member.node) if member.reads else graph.get_out_channels(member.node)

    def _name(self, node: torch_pruning.dependency.Node) -> str | None:
        return self.graph._param_to_name.get(node.module) if node.type == OPTYPE.PARAMETER else self.names.get(node.module)

    def _why_missing(self, layer: str) -> str:
        """Why a layer is not in the graph: it is not used, or inside something that is traced as one piece."""
        weight = self.model.get_submodule(layer).weight
        floating = [output.sum() for output in self.outputs if output.requires_grad]
        used = floating and torch.autograd.grad(sum(floating), weight, retain_graph=True, allow_unused=True)[0] is not None
        if not used:
            return f"layer {layer!r} takes no part in what the model computes from example_input"
        modules = self.model.named_modules()
        inside = [name for name, module in modules if isinstance(module, ATTENTION) and layer.startswith(f"{name}.")]
        where = f"{inside[-1]!r}, a {type(self.model.get_submodule(inside[-1])).__name__}," if inside else "the model's forward"
        return (
            f"layer {layer!r} is not called as a module: {where} uses its weight inside an operation that is not traced layer by "
            "layer; name another layer"
        )


class _Graph(torch_pruning.DependencyGraph):
    def _build_dependency(self, module2node) -> None:
        super()._build_dependency(module2node)
        for node in module2node.values():  # torch-pruning's own rule divides by zero on a shuffle of channels
            if node.type == OPTYPE.RESHAPE:
                node.type = OPTYPE.CUSTOMIZED


def is_plain(module: nn.Module) -> bool:
    """A dense layer or an ungrouped convolution: one whose rows and columns are tied to different layers."""
    return isinstance(module, CUTTABLE) and getattr(module, "groups", 1) == 1


def _along(edge: torch_pruning.dependency.Dependency, pairs: list[Pair]) -> list[Pair]:
    """Indices at one end of an edge as indices at its other end."""
    if not any(edge.index_mapping):
        return pairs
    indices = [torch_pruning._helpers._HybridIndex(*pair) for pair in pairs]
    for mapping in edge.index_mapping:
        indices = indices if mapping is None else mapping(indices)
    return [(index.idx, index.root_idx) for index in indices]


def one_line(reason: BaseException) -> str:
    """Kind and first line of an error."""
    lines = str(reason).strip().splitlines() or [""]
    return f"{type(reason).__name__}: {lines[0]}".removesuffix(": ")
