"""What notebook 01 shows beside its cells: the widget panel, and the figure it draws for one setting."""

import matplotlib.pyplot as plt
import torch
from torch import nn

from course_lib.data import Split
from course_lib.experiments import vector_quantization
from course_lib.notebook.panels import panel
from course_lib.notebook.plots import matrices, tiles


def codebook_view(model: nn.Module, split: Split, method: str, bits: int, length: int) -> plt.Figure:
    """Return a figure of six neurons of the first dense layer before and after coding, and of what coding costs and saves.

    Args:
        model: a trained network whose first dense layer reads 28 x 28 pixels; it is left as it was.
        split: what the accuracy is measured on.
        method: 'scalar' or 'product'.
        bits: of one code.
        length: of a segment, for product quantization of the columns.
    """
    arguments = (2**bits,) if method == "scalar" else (2**bits, length)
    layers = vector_quantization.coded(model, vector_quantization.coder(method, *arguments))
    first = next(iter(layers))
    weights = torch.cat([model.get_submodule(first).weight.detach()[:6], layers[first].decode()[:6]])
    picture = tiles(weights.view(12, 28, 28).cpu().numpy(), 6)
    figures = vector_quantization.measure(model, split, layers)
    size = sum(layer.bits for layer in layers.values()) / 8000
    rate = f"{figures['rate']:.1f}x smaller ({size:,.1f} kB)"
    loss = f"{figures['loss']:.1f} points of accuracy lost on {len(split.labels):,} images"
    what = f"{bits} bits for each " + ("weight" if method == "scalar" else f"segment of {length}")
    fig = matrices({what: picture}, title=f"{rate}: {loss}", unit="weight")
    fig.axes[0].set(xlabel=f"six neurons of {first}, pixel by pixel", ylabel="coded   |   trained", xticks=[], yticks=[])
    return fig


def codebook_panel(model: nn.Module, split: Split):
    """Return controls for method, bits of a code and segment length over `codebook_view`, an ipywidgets box."""
    import ipywidgets

    controls = {
        "method": ipywidgets.Dropdown(options=["scalar", "product"], value="product", description="method"),
        "bits": ipywidgets.IntSlider(4, min=1, max=6, description="bits per code", continuous_update=False),
        "length": ipywidgets.SelectionSlider(options=[1, 2, 4, 10, 20], value=4, description="segment", continuous_update=False),
    }
    return panel(controls, lambda chosen: codebook_view(model, split, **chosen))
