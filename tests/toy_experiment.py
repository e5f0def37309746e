"""An experiment for the tests of the runner: each row says in a log file that it began, and waits where it is told to.

With TOY_GATE set to a folder, a row goes on when it gets one of the tickets there (files, each for one row), or the gate is open.
"""

import contextlib
import os
import time
from pathlib import Path

import pandas as pd

FIGURES = dict(
    kind="toy", network="none", dataset="none", method="none", epochs=0, batch=0, lr=None, baseline=99.0, removed=None,
    accuracy=98.0, validation=98.0, parameters=10, nonzeros=9, macs=10, bytes=40, latency_1=0.1, latency_64=0.2, precision="none",
)  # fmt: skip


def grid(scale: str) -> list[dict]:
    return [dict(name=f"setting {i:02}", number=i) for i in range(int(os.environ.get("TOY_SETTINGS", "6")))]


def run(setting: dict, *, seed: int, scale: str, device: str) -> dict:
    with Path(os.environ["TOY_LOG"]).open("a") as log:
        log.write(f"{setting['number']} {seed} {os.getpid()} {scale}\n")
    if gate := os.environ.get("TOY_GATE"):
        pass_gate(Path(gate))
    if str(setting["number"]) == os.environ.get("TOY_FAILS"):
        raise ArithmeticError("a planted failure")
    return FIGURES | {"value": setting["number"] ** 2 + seed, "baseline_loss": 0.1 + seed}


def pass_gate(gate: Path) -> None:
    while not (gate / "open").exists():
        for ticket in gate.glob("ticket*"):
            with contextlib.suppress(FileNotFoundError):  # another row had it
                ticket.unlink()
                return
        time.sleep(0.01)


def paper_table(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[["name", "value"]]
