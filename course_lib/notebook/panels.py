"""Widget panels: sliders over a function from settings to a figure."""

from collections.abc import Callable, Mapping

import matplotlib.pyplot as plt
from IPython.display import clear_output, display


def panel(sliders: Mapping[str, object], view: Callable[[Mapping[str, float]], plt.Figure]):
    """Redraws `view` whenever a slider moves."""
    import ipywidgets

    output = ipywidgets.Output()

    def redraw(_change=None) -> None:
        with output:
            fig = view({name: slider.value for name, slider in sliders.items()})
            clear_output(wait=True)
            display(fig)
            plt.close(fig)

    for slider in sliders.values():
        slider.observe(redraw, names="value")
    redraw()
    return ipywidgets.VBox([*sliders.values(), output])
