"""An experiment for the tests of the runner: each row sleeps a little and says in a log file that it ran."""

import os
import time
from pathlib import Path

import pandas as pd


def grid(scale: str) -> list[dict]:
    return [dict(name=f"setting {i:02}", number=i) for i in range(int(os.environ.get("TOY_SETTINGS", "6")))]


def run(setting: dict, *, seed: int, scale: str, device: str) -> dict:
    with Path(os.environ["TOY_LOG"]).open("a") as log:
        log.write(f"{setting['number']} {seed} {os.getpid()} {os.environ['COURSE_SCALE']}\n")
    time.sleep(float(os.environ.get("TOY_SECONDS", "0")))
    if str(setting["number"]) == os.environ.get("TOY_FAILS"):
        raise ArithmeticError("a planted failure")
    return {"data set": "none", "value": setting["number"] ** 2 + seed}


def paper_table(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[["name", "value"]]
