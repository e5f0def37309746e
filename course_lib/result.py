"""What a method gives back: the compressed network, a record of how it came about, and a file of it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from course_lib.storage import networks


@dataclass(frozen=True)
class Result:
    """A compressed network.

    `course_lib.methods.load(path, fresh_model)` brings what `save` wrote back, in another process too.
    """

    model: nn.Module  # a new network, in evaluation mode, on the device of the one it was made from
    record: list[dict[str, Any]] = field(default_factory=list)  # one row per round or layer
    codes: networks.Codes | None = None  # parameter name -> its codes, where the method gives weights codes

    def save(self, path: str | Path) -> None:
        """Write one file with the network and all that was done to it; an old file is replaced whole.

        Raises:
            ValueError: the network has codes and was trained since, so that they no longer stand for its weights.
        """
        networks.save(self.model, path, self.codes)

    def frame(self):
        """Return the record as a pandas DataFrame."""
        import pandas as pd

        return pd.DataFrame(self.record)
