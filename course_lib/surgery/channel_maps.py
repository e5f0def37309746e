"""Rules for channel indices that torch-pruning lacks or guesses: flattening with the channels on any axis, padding of channels,
and the pieces of a split and of a concatenation, whose sizes autograd knows."""

import itertools
import math
from collections.abc import Sequence

import torch
import torch_pruning
from torch import Tensor, nn

OPTYPE = torch_pruning.ops.OPTYPE
LAST_AXIS = (
    nn.Linear,
    nn.LayerNorm,
    nn.Embedding,
    nn.MultiheadAttention,
    nn.LSTM,
)  # modules with their channels on the last axis
Node = torch_pruning.dependency.Node


class Table:
    """Maps each index to those of a table, forwards or backwards: what torch-pruning calls an index mapping."""

    def __init__(self, table: Sequence[Sequence[int]]):
        self.table = table

    def __call__(self, indices: list) -> list:
        at = {
            (entry, index.root_idx): None for index in indices if index.idx < len(self.table) for entry in self.table[index.idx]
        }
        return [torch_pruning._helpers._HybridIndex(*pair) for pair in at]


class Window(Sequence):
    """The table of a part, [[i - start] if start <= i < stop else [] for i in range(size)], without writing it out."""

    def __init__(self, start: int, stop: int, size: int):
        self.start, self.stop, self.size = start, stop, size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> list[int]:
        return [index - self.start] if self.start <= index < self.stop else []


def _connect(node: Node, forwards: Table, backwards: Table) -> None:
    """Puts the two tables on the edges between a node and its input."""
    for source in node.inputs:
        for edge in node.dependencies:
            if edge.target is source:
                edge.index_mapping.insert(0, backwards)
        for edge in source.dependencies:
            if edge.target is node:
                edge.index_mapping.append(forwards)  # after what a split at the source does to its indices


def map_reshape(node: Node) -> None:
    """A flatten of everything but the batch: the columns of a channel, wherever its axis is; and the way back, an unflatten."""
    if not isinstance(node.module, torch_pruning.ops._ReshapeOp) or len(node.inputs) != 1:
        return
    before, after = _input_shape(node), _shape(node)
    if before is None or after is None or before[:1] != after[:1]:
        return
    if len(after) == 2 < len(before):
        axis = _channel_axis(node.inputs[0])
        if axis is None or not 1 <= axis < len(before):
            return
        columns = torch.arange(math.prod(before[1:])).view(before[1:]).movedim(axis - 1, 0).flatten(1)  # (C, r)
        _connect(node, Table(columns.tolist()), Table(_inverse(columns)))
    elif len(before) == 2 < len(after) and _reading_channels(node) == after[1]:
        rows = torch.arange(before[1]).view(after[1], -1)  # (C, r): the inputs that make a channel
        _connect(node, Table(_inverse(rows)), Table(rows.tolist()))


def _reading_channels(node: Node) -> int | None:
    """The channels of the convolution that reads a node's output, if the next layer is one."""
    while node.outputs:
        node = node.outputs[0]
        if isinstance(node.module, nn.modules.conv._ConvNd):
            return node.module.in_channels
        if type(node.module) in LAST_AXIS:
            return None
    return None


def _inverse(columns: Tensor) -> list[list[int]]:
    channel_of = torch.empty(columns.numel(), dtype=torch.int64)
    channel_of[columns.flatten()] = torch.arange(len(columns)).repeat_interleave(columns.shape[1])
    return channel_of[:, None].tolist()


def _channel_axis(node: Node) -> int | None:
    """The axis of a node's output that its channels are on."""
    shape = _shape(node)
    if isinstance(node.module, nn.Module) and not type(node.module).__module__.startswith("torch_pruning"):
        return len(shape) - 1 if isinstance(node.module, LAST_AXIS) and shape else 1
    if not node.inputs or shape is None:
        return None
    axis, before, name = _channel_axis(node.inputs[0]), _input_shape(node), node.grad_fn.name()
    if axis is None:
        return None
    if name.startswith("Permute"):
        order = [_signed(axis) % len(shape) for axis in node.grad_fn._saved_dims]
        return order.index(axis)
    if name.startswith("Transpose"):
        swapped = [_signed(node.grad_fn._saved_dim0) % len(shape), _signed(node.grad_fn._saved_dim1) % len(shape)]
        return swapped[1 - swapped.index(axis)] if axis in swapped else axis
    if before is not None and len(shape) == 2 < len(before) and before[0] == shape[0]:
        return 1
    if before is not None and len(before) != len(shape) and before[: axis + 1] != shape[: axis + 1]:
        axis += len(shape) - len(before)
        return axis if before[axis - len(shape) :] == shape[axis:] else None
    return axis


def map_split(node: Node) -> None:
    """The pieces of a split or chunk of the channels; torch-pruning takes them in the order in which it comes across them."""
    sizes = getattr(node.grad_fn, "_saved_split_sizes", None) or getattr(node.grad_fn, "_saved_split_size", None)
    if node.type != OPTYPE.SPLIT or sizes is None or not node.inputs:
        return
    shape, dimension = _input_shape(node), _signed(node.grad_fn._saved_dim)
    of_channels = shape is not None and dimension % len(shape) == _channel_axis(node.inputs[0])
    for reader in dict.fromkeys(node.outputs):
        pieces = [number for function, number in reader.grad_fn.next_functions if function is node.grad_fn]
        forwards = [edge for edge in node.dependencies if edge.target is reader]
        backwards = [edge for edge in reader.dependencies if edge.target is node]
        _forget((*forwards, *backwards), torch_pruning.dependency.index_mapping._SplitIndexMapping)
        for piece, there, back in zip(pieces, forwards, backwards, strict=False):
            if of_channels:
                start = piece * sizes if isinstance(sizes, int) else sum(sizes[:piece])
                stop = min(start + (sizes if isinstance(sizes, int) else sizes[piece]), shape[dimension])
                there.index_mapping.insert(0, Table(Window(start, stop, shape[dimension])))
                back.index_mapping.append(Table([[i] for i in range(start, stop)]))


def map_concat(node: Node) -> None:
    """A concatenation of channels: each input's channels come after those of the inputs before it."""
    if node.type != OPTYPE.CONCAT:
        return
    shape, dimension = _shape(node), _signed(node.grad_fn._saved_dim)
    dimension %= len(shape)
    functions = node.grad_fn.next_functions
    widths = [_widths(function, number, dimension) for function, number in functions]
    if widths.count(None) == 1:  # the network's input, which needs no gradient
        widths[widths.index(None)] = shape[dimension] - sum(width for width in widths if width is not None)
    if None in widths:
        return
    places: dict = {}  # function -> (start, stop) of each of its outputs among the channels
    for (function, _), stop, width in zip(functions, itertools.accumulate(widths), widths, strict=True):
        places.setdefault(function, []).append((stop - width, stop))
    for source in dict.fromkeys(node.inputs):
        forwards = [edge for edge in source.dependencies if edge.target is node]
        backwards = [edge for edge in node.dependencies if edge.target is source]
        _forget((*forwards, *backwards), torch_pruning.dependency.index_mapping._ConcatIndexMapping)
        for (start, stop), there, back in zip(places.get(source.grad_fn, []), forwards, backwards, strict=False):
            if dimension == _channel_axis(source):
                there.index_mapping.append(Table([[i] for i in range(start, stop)]))
                back.index_mapping.insert(0, Table(Window(start, stop, shape[dimension])))


def _widths(function, number: int, dimension: int) -> int | None:
    """The size of an operation's output along a dimension; None where there is no gradient, so that nothing is known of it."""
    variable, metadata = getattr(function, "variable", None), getattr(function, "_input_metadata", None)
    shape = variable.shape if variable is not None else metadata[number].shape if metadata else None
    return None if shape is None else shape[dimension]


def _forget(edges: Sequence, kind: type) -> None:
    """Takes torch-pruning's own mappings of a kind off some edges."""
    for edge in edges:
        edge.index_mapping = [None if isinstance(mapping, kind) else mapping for mapping in edge.index_mapping]


def map_padding(node: Node) -> None:
    """A padding of channels: channel c is channel c + p afterwards."""
    widths = channel_padding(node)
    if widths:
        first, channels = widths
        backwards = [[index - first] if first <= index < first + channels else [] for index in range(_shape(node)[1])]
        _connect(node, Table([[index + first] for index in range(channels)]), Table(backwards))


def channel_padding(node: Node) -> tuple[int, int] | None:
    """(channels put in front, channels before the padding) of a padding of axis 1 by constants; None for another node."""
    if node.grad_fn is None or not node.grad_fn.name().startswith("ConstantPadNd"):
        return None
    pad, shape = list(node.grad_fn._saved_pad), _shape(node)
    at = 2 * (len(shape) - 2)  # widths are listed from the last axis on, two for each
    if len(pad) < at + 2 or not any(pad[at : at + 2]):
        return None
    return pad[at], shape[1] - sum(pad[at : at + 2])


def _shape(node: Node) -> list[int] | None:
    """The shape of a node's output."""
    metadata = getattr(node.grad_fn, "_input_metadata", None)
    return list(metadata[0].shape) if metadata else None


def _input_shape(node: Node) -> list[int] | None:
    sizes = getattr(node.grad_fn, "_saved_self_sym_sizes", None)
    return list(sizes) if sizes is not None else _shape(node.inputs[0])


def _signed(number: int) -> int:
    """Autograd saves negative axes as unsigned numbers."""
    return number - 2**64 if number >= 2**63 else number
