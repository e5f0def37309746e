"""What a compressed file holds: tensors of few values, as codebook, codes and gaps, and plain ones."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from course_lib.coding import compact
from course_lib.coding.coders import CODERS
from course_lib.coding.reading import RAW_KINDS, check_entries

RAW_TYPES = dict(zip((torch.float32, torch.float16, torch.int64), RAW_KINDS, strict=True))
NAMES = (*CODERS, compact.CODER)  # of coders; the last one codes whole networks and not streams
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True, eq=False)
class CodedTensor:
    """A sparse tensor of shared weights; raises ValueError if its fields do not fit each other.

    A gap above 2 ** index_bits is bridged by fillers: entries whose value in the codebook is 0.
    """

    shape: torch.Size  # of up to 64 dimensions; () and empty ones too
    codebook: Tensor  # (k,) float32, k from 1 to 65536
    codes: Tensor  # (e,) integers from 0 to k - 1, one for each stored entry
    gaps: Tensor  # (e,) integers from 1 to 2 ** index_bits: the step from the entry before, for the first from place -1
    index_bits: int  # 1 to 16; or 0: then every weight is stored and gaps is (0,)

    def __post_init__(self):
        codebook, numel = self.codebook, math.prod(self.shape)
        if len(self.shape) > 64 or min(self.shape, default=0) < 0:  # torch computes with no more than 64
            raise ValueError(f"shape is {tuple(self.shape)}; allowed are up to 64 dimensions, none negative")
        if type(self.index_bits) is not int or not 0 <= self.index_bits <= 16:
            raise ValueError(f"index_bits is {self.index_bits!r}; allowed are 0 to 16")
        if codebook.dtype != torch.float32 or codebook.dim() != 1 or not 1 <= len(codebook) <= 2**16:
            found = f"{codebook.dtype} of shape {tuple(codebook.shape)}"
            raise ValueError(f"codebook is {found}; expected torch.float32 of shape (k,), k from 1 to 65536")
        _check_integers("codes", self.codes)
        _check_integers("gaps", self.gaps)
        entries = len(self.codes)
        if len(self.gaps) != (entries if self.index_bits else 0):
            raise ValueError(f"gaps has {len(self.gaps)} entries for {entries} codes and {self.index_bits} index bits")
        if not self.index_bits and entries != numel:
            raise ValueError(f"codes has {entries} entries; without index bits all {numel} weights need one")
        check_entries(self.codes, self.gaps, len(codebook), self.index_bits, numel)

    def decode(self) -> Tensor:
        """The weights, float32 of `shape`: zeros, but for the stored entries."""
        values = self.codebook[self.codes.long()]
        if self.index_bits:
            places = self.gaps.cumsum(0) - 1
            values = values.new_zeros(math.prod(self.shape)).index_put_((places,), values)
        return values.view(self.shape)


@dataclass(frozen=True, eq=False)
class CompressedNetwork:
    """What a file holds; raises ValueError for what it cannot hold."""

    network: str  # a name such as 'lenet-5', or ''
    tensors: dict[str, CodedTensor | Tensor]  # in the order of a state dict; plain ones of a type in `RAW_TYPES`
    coder: str  # 'fixed', 'huffman', 'ans' or 'context'

    def __post_init__(self):
        if self.coder not in NAMES:
            raise ValueError(f"coder is {self.coder!r}; allowed are {', '.join(NAMES)}")
        if not isinstance(self.network, str):
            raise ValueError(f"network is {self.network!r}; expected a name")
        for name, tensor in self.tensors.items():
            found = getattr(tensor, "dtype", type(tensor))
            if not isinstance(name, str) or not (isinstance(tensor, CodedTensor) or found in RAW_TYPES):
                allowed = f"a CodedTensor, or one of {', '.join(map(str, RAW_TYPES))}"
                raise ValueError(f"tensor {name!r} is {found}; allowed under a name are {allowed}")

    def state_dict(self) -> dict[str, Tensor]:
        """All tensors, decoded."""
        return {name: tensor.decode() if isinstance(tensor, CodedTensor) else tensor for name, tensor in self.tensors.items()}


def _check_integers(name: str, values: Tensor) -> None:
    if values.dtype not in INTEGERS or values.dim() != 1:
        found = f"{values.dtype} of shape {tuple(values.shape)}"
        raise ValueError(f"{name} is {found}; expected shape (e,) and one of {', '.join(map(str, INTEGERS))}")
