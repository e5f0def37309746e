"""Widget panels: controls over a function from settings to a figure."""

from collections.abc import Callable, Mapping

import ipywidgets
import matplotlib.pyplot as plt

from course_lib.notebook import pictures

HOW_TO_PLAY = "To play, open this notebook in JupyterLab, run its cells, and move the controls that appear here."


class Panel(ipywidgets.VBox):
    """Controls and a picture. Where no kernel answers, as on a page or in a saved notebook, `still` is shown instead."""

    still: dict[str, str]

    def _repr_mimebundle_(self, **options) -> tuple[dict, dict]:
        live = super()._repr_mimebundle_(**options)
        return live | self.still, pictures.metadata(self.still["text/plain"])


def panel(controls: Mapping[str, ipywidgets.Widget], view: Callable[[dict], plt.Figure]) -> Panel:
    """Return a panel that redraws `view` whenever a control moves.

    Args:
        controls: name of a setting -> the widget that holds its value.
        view: draws the figure for these settings; its title says what they lead to.
    """
    picture = ipywidgets.HTML()

    def drawn() -> tuple[plt.Figure, str]:
        fig = view({name: control.value for name, control in controls.items()})
        return fig, described(controls, fig)

    def redraw(_change=None) -> None:
        fig, alt = drawn()
        picture.value = pictures.element(fig, alt)
        plt.close(fig)

    fig, alt = drawn()
    still = pictures.bundle(fig, alt)
    plt.close(fig)
    picture.value = still["text/html"]
    for control in controls.values():
        control.observe(redraw, names="value")
        control.style.description_width = "initial"  # a name is shown whole
    box = Panel([*controls.values(), picture])
    box.still = still | {"text/html": f"{still['text/html']}<p>{HOW_TO_PLAY}</p>", "text/plain": alt}
    return box


def described(controls: Mapping[str, ipywidgets.Widget], fig: plt.Figure) -> str:
    """Return the alternative text of a panel's picture: its settings, and the titles that say what they lead to."""
    settings = ", ".join(f"{control.description or name} {_told(control.value)}" for name, control in controls.items())
    places = [(ax, place) for ax in fig.axes for place in ("left", "center", "right")]
    titles = [fig.get_suptitle(), *(ax.get_title(place) for ax, place in places)]
    return f"Panel at {settings}. " + ". ".join(" ".join(title.split()) for title in titles if title) + "."


def _told(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
