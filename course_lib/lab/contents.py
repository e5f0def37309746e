"""The files of the course as JupyterLab sees them: originals can be read and run, not changed; no file holds widgets."""

import platform
from typing import Any

from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
from tornado.web import HTTPError

from course_lib.desk.copies import HERE
from course_lib.desk.stills import without_widgets
from course_lib.files import ROOT

REFUSED = "This original stays as it is. Your own copy of the notebook, to write in, is in the folder “work”."


def is_original(path: str) -> bool:
    """Return whether a path, as the server spells it, leads to a notebook of the course itself."""
    place = (ROOT / path.strip("/")).resolve()
    return place.parent == HERE.notebooks and place.suffix == ".ipynb"


class CourseContents(AsyncLargeFileManager):
    """JupyterLab's usual files, but for the originals and for widgets; notes which copies a reader has opened."""

    async def get(self, path: str, content: bool = True, **options: Any) -> dict:
        """Return a file as JupyterLab asks for it; it takes an original for one that it may not write, and never saves it."""
        model = await super().get(path, content=content, **options)
        if model["type"] == "notebook" and model["content"]:
            without_widgets(model["content"])  # a file that was saved elsewhere may hold some
            # JupyterLab notes the interpreter's version, and would ask who closes an unread notebook whether to save that
            if language := model["content"]["metadata"].get("language_info"):
                language["version"] = platform.python_version()
        if is_original(path):
            model["writable"] = False
        elif content and model["type"] == "notebook":
            _note(path)
        return model

    async def save(self, model: dict, path: str = "") -> dict:
        """Writes a file, a notebook without its widgets; refuses to where it is an original."""
        if is_original(path):
            raise HTTPError(403, REFUSED)
        if model.get("type") == "notebook" and model.get("content"):
            without_widgets(model["content"])
        return await super().save(model, path)


def _note(path: str) -> None:
    """Remembers that the reader has opened a copy."""
    place = (ROOT / path.strip("/")).resolve()
    if place.parent == HERE.work and HERE.handed_out(place.stem).exists():
        HERE.opened(place.stem).parent.mkdir(parents=True, exist_ok=True)
        HERE.opened(place.stem).touch()
