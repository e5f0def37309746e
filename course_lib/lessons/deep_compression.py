"""What notebook 05 shows beside its cells: the widget panel, and the figure it draws for one setting."""

import copy

import matplotlib.pyplot as plt
import pandas as pd
from torch import nn

from course_lib.data import Split
from course_lib.experiments import deep_compression as experiments
from course_lib.notebook.panels import panel
from course_lib.notebook.plots import stacked_bars
from course_lib.papers import deep_compression

PARTS = ("codes", "gaps", "tables", "codebook")


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


def layer_table(tuned: nn.Module, network: str, setting: str) -> pd.DataFrame:
    """Return a line per layer in the form of the paper's tables 2 and 3, each figure as 'paper / here' at the paper's setting.

    Kept weights, bits of a code and of a gap before and after Huffman, and the layer's bytes as a share of 4 a weight, its
    codebook and tables included.
    """
    how = experiments.SETTINGS[network][setting]
    tables = {
        coder: experiments.inspect(deep_compression.compress(tuned, **experiments.settings(how, coder)))
        for coder in ("fixed", "huffman")
    }
    rows = {}
    for name, cited in PAPER_LAYERS[network].items():
        fixed, huffman = (tables[coder].loc[f"{name}.weight"] for coder in ("fixed", "huffman"))
        shares = [100 * layer.filter(like="bytes").sum() / (4 * layer.weights) for layer in (fixed, huffman)]
        here = [100 * fixed.nonzeros / fixed.weights]
        here += [layer[f"bits per {stream}"] for stream in ("code", "gap") for layer in (fixed, huffman)] + shares
        texts = [f"{figure:.3g}" for figure in here]
        rows[name] = [f"{theirs:g} / {ours}" for theirs, ours in zip(cited, texts, strict=True)] if setting == "paper" else texts
    columns = ["kept %", "code bits P+Q", "code bits P+Q+H", "gap bits P+Q", "gap bits P+Q+H", "size % P+Q", "size % P+Q+H"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def file_view(model: nn.Module, split: Split, bits: int, index_bits: int, coder: str) -> plt.Figure:
    """Draw what the parts of each layer take in the compressed file, with its size and the error of the network that it holds.

    Args:
        model: a pruned network; it is left as it was.
        split: what the error is measured on.
        bits: of a code, the same in all layers.
        index_bits: of a gap.
        coder: 'fixed', 'huffman' or 'ans'.
    """
    compressed = deep_compression.compress(model, bits=bits, index_bits=index_bits, coder=coder)
    table = experiments.inspect(compressed)
    layers = [name for name in table.index if name.endswith("weight")]
    parts = {part: {name: table.loc[name, f"bytes of {part}"] / 1000 for name in layers} for part in PARTS}
    restored = copy.deepcopy(model)
    restored.load_state_dict(compressed.state_dict())
    size, dense = experiments.file_size(compressed), 4 * sum(p.numel() for p in model.parameters())
    error = f"error {experiments.error(model, split):.2f} -> {experiments.error(restored, split):.2f} %"
    title = f"{size / 1000:.1f} kB, {dense / size:.0f}x smaller; {error} on {len(split.labels):,} images, untrained"
    return stacked_bars(parts, title=title, xlabel="kilobytes in the file (biases and header not drawn)")


def file_panel(model: nn.Module, split: Split):
    """Bits of a code, bits of a gap and the coder over `file_view`; returns an ipywidgets box."""
    import ipywidgets

    controls = {
        "bits": ipywidgets.IntSlider(4, min=1, max=8, description="code bits", continuous_update=False),
        "index_bits": ipywidgets.IntSlider(5, min=2, max=10, description="gap bits", continuous_update=False),
        "coder": ipywidgets.Dropdown(options=["fixed", "huffman", "ans"], value="huffman", description="coder"),
    }
    return panel(controls, lambda chosen: file_view(model, split, **chosen))
