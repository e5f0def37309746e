"""What a notebook's file keeps of widgets: they live in a kernel, and a file that is opened later has none."""

from typing import Any

WIDGET = "application/vnd.jupyter.widget-view+json"


def without_widgets(notebook: dict[str, Any]) -> dict[str, Any]:
    """Return a notebook without widgets, changed in place: a panel leaves its picture, a progress bar nothing.

    JupyterLab shows an error in the place of a widget whose kernel is gone.

    Args:
        notebook: in format 4, as a dictionary or as nbformat reads it.
    """
    notebook["metadata"].pop("widgets", None)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = [output for output in cell["outputs"] if _is_still(output)]
    return notebook


def _is_still(output: dict[str, Any]) -> bool:
    """Takes the widget out of an output; whether something is left to show, beside the widget's name in plain text."""
    data = output.get("data", {})
    return data.pop(WIDGET, None) is None or not data.keys() <= {"text/plain"}
