"""What notebook 05 shows beside its cells: the widget panel, and the figure it draws for one setting."""

import copy

import matplotlib.pyplot as plt
from torch import nn

from course_lib.data import Split
from course_lib.experiments import deep_compression as experiments
from course_lib.notebook.panels import panel
from course_lib.notebook.plots import stacked_bars
from course_lib.papers import deep_compression

PARTS = ("codes", "gaps", "tables", "codebook")


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
