"""What the cells of a notebook share: start(), show(), check(), the banner for stand-in data, the table of claims."""

import ast
import html
import inspect
import textwrap
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from IPython import get_ipython
from IPython.display import Markdown, display
from torch import nn

from course_lib import data, models, scale
from course_lib.data import Splits
from course_lib.evidence import DOES_NOT, HOLDS, NOT_TESTED, Verdict
from course_lib.notebook import plots
from course_lib.notebook.checks import check
from course_lib.notebook.guesses import reveal
from course_lib.notebook.pictures import figure
from course_lib.notebook.rich import Rich
from course_lib.tables import as_text

__all__ = ["Claim", "Environment", "check", "claims", "figure", "full", "plots", "reveal", "show", "start"]

INTERRUPTED = (
    "You interrupted this cell before it was done. Nothing half-done was kept: "
    "to go on, run it again, beginning with the cell that made the network if it trains one."
)


@dataclass(frozen=True)
class Environment:
    """What a notebook runs on."""

    splits: Splits
    device: torch.device
    scale: str
    seed: int

    def baseline(self, network: str) -> nn.Module:
        """The committed network, trained on the data set that is really in use, on the device; a fresh copy at every call."""
        return models.pretrained(network, self.splits.name).to(self.device)


def start(dataset: str = "mnist", seed: int = 0) -> Environment:
    """Seeds, chooses the device, loads the data and prints one line that says what the notebook runs on.

    Waits at most a minute for a download, then goes on with the stand-in and says so in a banner. From here on a cell that is
    interrupted, or uses an answer that is still empty, ends in a sentence instead of a traceback.

    Args:
        dataset: 'mnist' or 'cifar10'.
        seed: of torch's global random state.
    """
    if shell := get_ipython():
        shell.set_custom_exc((KeyboardInterrupt, NotImplementedError), _told)
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    plots.use_style()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scale.StandInWarning)  # the banner says it, louder
        splits = data.load(dataset, device=device, patience=60)
    if splits.is_stand_in:
        display(_banner(splits))
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    train, validation, test = (len(part.labels) for part in (splits.train, splits.validation, splits.test))
    print(
        f"{where} | scale {scale.name()} | data set {splits.name}: {train:,} training, {validation:,} validation and {test:,} "
        f"test images | seed {seed} | torch {torch.__version__.split('+')[0]}"
    )
    return Environment(splits, device, scale.name(), seed)


def _told(shell, kind, error, traceback, tb_offset=None) -> None:
    """Prints a sentence for an interrupt and for an empty answer; the cell has failed all the same, so 'Run All' stops there."""
    if kind is KeyboardInterrupt:
        print(INTERRUPTED)
    elif str(error).startswith("Exercise "):  # as the copies have it
        print(f"{error}.")
    else:
        custom, shell.custom_exceptions = shell.custom_exceptions, ()
        shell.showtraceback((kind, error, traceback), tb_offset=tb_offset)
        shell.custom_exceptions = custom


def _banner(splits: Splits) -> Rich:
    text = f"STAND-IN DATA: {splits.name} instead of {splits.requested} ({splits.why}). "
    text += f"What is measured below is no figure for {splits.requested}."
    if scale.name() != "smoke":
        text += f" `python -m course_lib data {splits.requested}` fetches the real data."
    style = "border:3px solid #D55E00;padding:.6em 1em;font-size:115%;font-weight:bold"
    return Rich(f'<div style="{style}">{html.escape(text)}</div>', f"*** {text} ***")


def show(*functions: Callable) -> None:
    """Prints the real source of library functions; of a docstring only the first line, `help(function)` has the rest."""
    for function in functions:
        path = Path(inspect.getsourcefile(inspect.unwrap(function))).parts  # not where a decorator is
        place = "/".join(path[path.index("course_lib") :])
        display(Markdown(f"`{place}`\n```python\n{_shortened(function)}\n```"))


def _shortened(function: Callable) -> str:
    source = textwrap.dedent(inspect.getsource(function)).rstrip()
    body = ast.parse(source).body[0].body
    if ast.get_docstring(ast.parse(source).body[0]) is None:
        return source
    lines = source.splitlines()
    first, last = body[0].lineno - 1, body[0].end_lineno
    if last - first > 1:
        lines[first:last] = [f'{lines[first].rstrip()} ..."""']
    return "\n".join(lines)


class Claim(NamedTuple):
    """One row of the table of claims; the verdict is computed from the figures, never typed in."""

    claim: str  # in the paper's words
    measured: str  # what was compared, on which network
    here: str  # the figures behind it, with their unit
    # A verdict over trained networks; True or False where nothing is left to chance: a count, an identity, a time on this
    # machine; None where it was not tested here; a label of `evidence` where what is counted decides
    evidence: Verdict | bool | str | None
    epochs: str = ""  # of each arm

    def line(self) -> dict[str, str]:
        """Return the row as the table shows it."""
        effect = interval = networks = ""
        if isinstance(self.evidence, Verdict):
            label, networks = self.evidence.label, str(self.evidence.networks)
            effect = f"{self.evidence.mean:+.2f}"
            interval = _ends(self.evidence) if self.evidence.networks > 1 else "none"
        else:
            label = {True: HOLDS, False: DOES_NOT, None: NOT_TESTED}.get(self.evidence, self.evidence)
        if scale.name() == "smoke" and self.evidence is not None:
            label = SMOKE
        return {
            "claim": self.claim, "measured": self.measured, "here": self.here, "effect": effect, "95 % interval": interval,
            "networks": networks, "epochs": self.epochs, "verdict": label,
        }  # fmt: skip


SMOKE = "stand-in data decide nothing"


def _ends(found: Verdict) -> str:
    """The interval, with a third digit where two would hide on which side of the margin it ends."""
    digits = 3 if any(round(end, 2) == round(found.margin, 2) for end in (found.low, found.high)) else 2
    return f"{found.low:+.{digits}f} to {found.high:+.{digits}f}"


def claims(*rows: Claim) -> Rich:
    """Return the table of claims: effect, its 95 % interval, the number of trained networks, the epochs of each arm, verdict.

    At smoke scale each verdict says that stand-in data decide nothing. Columns that are empty in every row are left out.
    """
    table = pd.DataFrame([row.line() for row in rows])
    return full(table[[column for column in table if (table[column] != "").any()]])


def full(table: pd.DataFrame) -> Rich:
    """A data frame shown whole, text wrapped and aligned left, without the index."""
    rows = table.to_html(index=False, escape=True, border=0).replace("<td>", '<td style="text-align:left">')
    rows = rows.replace("<th>", '<th style="text-align:left">')
    return Rich(rows, as_text(table))
