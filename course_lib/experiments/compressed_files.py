"""What lies in the files of Deep Compression: their bytes, by layer and by part."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from course_lib import storage

# Tables 2 and 3: kept (%), bits of a code (P+Q, P+Q+H), bits of a gap (P+Q, P+Q+H), size (%, P+Q, P+Q+H)
PAPER_LAYERS = {
    "lenet-300-100": {
        "fc1": (8, 6, 4.4, 5, 3.7, 3.1, 2.32),
        "fc2": (9, 6, 4.4, 5, 4.3, 3.8, 3.04),
        "fc3": (26, 6, 4.3, 5, 3.2, 15.7, 12.70),
    },
    "lenet-5": {
        "conv1": (66, 8, 7.2, 5, 1.5, 78.5, 67.45),
        "conv2": (12, 8, 7.2, 5, 3.9, 6.0, 5.28),
        "fc1": (8, 5, 4.5, 5, 4.5, 2.7, 2.45),
        "fc2": (19, 5, 5.2, 5, 3.7, 6.9, 6.13),
    },
}


def file_size(compressed: storage.CompressedNetwork) -> int:
    """Return the bytes of the real file."""
    return len(storage.encode(compressed))


def dense_bytes(model: nn.Module) -> int:
    """Return the bytes of a plain file: 4 for each parameter, biases included."""
    return 4 * sum(p.numel() for p in model.parameters())


def raw(model: nn.Module) -> storage.CompressedNetwork:
    """Return a network as a file of plain 32-bit numbers."""
    return storage.CompressedNetwork("", {name: tensor.cpu() for name, tensor in model.state_dict().items()}, "fixed")


def inspect(compressed: storage.CompressedNetwork) -> pd.DataFrame:
    """Return `storage.inspect` of the file that a network makes."""
    with tempfile.TemporaryDirectory() as folder:
        storage.save(compressed, Path(folder) / "network")
        return storage.inspect(Path(folder) / "network")


def described(files: Mapping[str, storage.CompressedNetwork]) -> dict:
    """Return what the paper's tables 2 and 3 say of each layer, at fixed width and with Huffman's words, and the file's parts."""
    fixed, huffman = (inspect(files[coder]) for coder in ("fixed", "huffman"))
    layers = {}
    for name in fixed.index[fixed.index.str.endswith("weight")]:
        one, two = fixed.loc[name], huffman.loc[name]
        layers[name.removesuffix(".weight")] = [
            100 * one.nonzeros / one.weights,
            *(float(row[f"bits per {symbols}"]) for symbols in ("code", "gap") for row in (one, two)),
            *(100 * row.filter(like="bytes of").sum() / (4 * row.weights) for row in (one, two)),
        ]
    weights = huffman[huffman.index.str.endswith("weight")]
    parts = {part: int(weights[f"bytes of {part}"].sum()) for part in ("codes", "gaps", "tables", "codebook")}
    everything = huffman.filter(like="bytes").sum().sum()
    parts |= dict(biases=int(everything - sum(parts.values())), header=int(huffman.attrs["header bytes"]))
    return dict(layers=layers, parts=parts)


def layer_table(rows: pd.DataFrame, network: str) -> pd.DataFrame:
    """Return a line per layer in the form of the paper's tables 2 and 3, each figure as 'paper / here', at the paper's setting.

    Kept weights, bits of a code and of a gap before and after Huffman, and the layer's bytes as a share of 4 per weight, its
    codebook and tables included; ours are means over the networks.
    """
    chosen = rows[(rows.kind == "stages") & (rows.network == network) & (rows.setting == "paper") & (rows.method == "P+Q+H")]
    table = {}
    for name, cited in PAPER_LAYERS[network].items():
        here = np.mean([layers[name] for layers in chosen.layers], axis=0)
        table[name] = [f"{theirs:g} / {ours:.3g}" for theirs, ours in zip(cited, here, strict=True)]
    columns = ["kept %", "code bits P+Q", "code bits P+Q+H", "gap bits P+Q", "gap bits P+Q+H", "size % P+Q", "size % P+Q+H"]
    return pd.DataFrame.from_dict(table, orient="index", columns=columns).reset_index(names=f"{network}: paper / here")
