"""Things to display, as HTML or as text."""

from typing import NamedTuple


class Rich(NamedTuple):
    """One thing to display, as HTML where that can be shown, else as text."""

    html: str
    text: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text
