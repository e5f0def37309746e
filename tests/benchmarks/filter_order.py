"""Searches for the order of neurons and filters that makes each of the course's files shortest, and records what that saves.

The order costs nothing, as a decoder need not know it: in whatever order its neurons are, the network computes the same. So one
neuron or filter at a time is moved to another place, and the move is kept if the file is no longer than before.

    python tests/benchmarks/filter_order.py [--tries 200]
"""

import argparse
import datetime
import json
import random

import torch

from course_lib import storage
from course_lib.challenge.places import FOLDER
from course_lib.files import replacing
from course_lib.storage import CodedTensor, CompressedNetwork


def searched(file: CompressedNetwork, tries: int, seed: int = 0) -> list[int]:
    """Return the bytes of the shortest file found, before the search and after each move."""
    draw, sizes = random.Random(seed), [len(storage.encode(file))]
    hidden = _layers(file)[:-1]
    for _ in range(tries):
        layer = draw.choice(hidden)
        places = list(range(file.tensors[f"{layer}.weight"].shape[0]))
        places.insert(draw.choice(places), places.pop(draw.choice(places)))
        moved = reordered(file, layer, places)
        size = len(storage.encode(moved))
        if size <= sizes[-1]:
            file = moved
        sizes.append(min(size, sizes[-1]))
    return sizes


def reordered(file: CompressedNetwork, layer: str, places: list[int]) -> CompressedNetwork:
    """Return a file whose layer has its neurons or filters in another order, and the next layer its columns accordingly."""
    names = _layers(file)
    reader = f"{names[names.index(layer) + 1]}.weight"
    moved = {f"{layer}.{kind}": _taken(file.tensors[f"{layer}.{kind}"], places, 0) for kind in ("weight", "bias")}
    return CompressedNetwork(file.network, file.tensors | moved | {reader: _taken(file.tensors[reader], places, 1)}, file.coder)


def _layers(file: CompressedNetwork) -> list[str]:
    return [name.removesuffix(".weight") for name in file.tensors if name.endswith(".weight")]


def _taken(tensor: CodedTensor, places: list[int], dim: int) -> CodedTensor:
    """A coded tensor with its rows or columns in another order; after a flatten, several columns belong to one filter."""
    codes = tensor.codes.view(tensor.shape)
    codes = codes[places] if dim == 0 else codes.unflatten(1, (len(places), -1))[:, places]
    return CodedTensor(tensor.shape, tensor.codebook, codes.flatten(), tensor.gaps, tensor.index_bits)


def main() -> None:
    """Search, and write the record beside the files."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--tries", type=int, default=200, help="moves that are tried for each file")
    tries = arguments.parse_args().tries
    torch.set_num_threads(1)
    rows = []
    for path in sorted((FOLDER / "course").glob("*.cnet")):
        sizes = searched(storage.load(path), tries)
        rows.append(dict(file=path.name, before=sizes[0], after=sizes[-1]))
        print(rows[-1], flush=True)
    record = dict(date=str(datetime.date.today()), command=f"python tests/benchmarks/filter_order.py --tries {tries}", rows=rows)
    with replacing(FOLDER / "filter_order.json") as scratch:
        scratch.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
