"""Maps a paper's experiments over their grid, on the cores of this machine, its GPUs, or a Dask cluster.

A paper's experiments are a module of this package with

    grid(scale) -> list of settings, each a dict for JSON with a 'name'; 'seeds' where it runs on so many networks at most
    run(setting, *, seed, scale, device) -> dict    the row's figures, as values for JSON; `rows.SCHEMA` says which
    paper_table(rows: DataFrame) -> DataFrame       what the paper says and what the rows say
    headline(rows: DataFrame) -> DataFrame          its main result, one line per network, with the columns HEADLINE

A seed is an independently trained network. Rows go to build/results/<paper>.json as they finish. A row that is there is not run
again, so a run that was killed goes on where it was; a worker that dies costs the rows it was at, and these run elsewhere. A row
of older code or of another budget is run again, by its fingerprint. When all rows of a run are there, they go to data/results
together; those of smoke scale stay below build. (Of paper scale data/results holds what has been run so far.)
"""

import datetime
import importlib
import importlib.metadata
import math
import pkgutil
import platform
import sys
import time
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from course_lib import cluster
from course_lib import scale as scales
from course_lib.experiments import fingerprints, rows
from course_lib.experiments.row_files import add, bring, key_of, read
from course_lib.files import ROOT
from course_lib.tables import as_text

RESULTS = ROOT / "data" / "results"  # whole runs at lesson and paper scale, committed
UNFINISHED = ROOT / "build" / "results"  # rows of a run that is not whole yet, and those of smoke scale
# In the order in which the course tells them; the last three are no papers of their own
PAPERS = {
    "vector-quantization": "Gong 2014",
    "weight-pruning": "Han 2015",
    "network-trimming": "Hu 2016",
    "filter-pruning": "Li 2017",
    "deep-compression": "Han 2016",
    "channel-pruning": "He 2017",
    "thinet": "Luo 2017",
    "comparison": "All papers",
    "combined": "Hu 2016 and Han 2016",
    "smallest": "Havasi 2019 and others",
}
SEEDS = dict.fromkeys(("filter-pruning", "channel-pruning", "thinet"), 3)  # networks per setting; 5 for the others
# What is `counted` is `rate` times less here, at `lost` points of accuracy, means over trained networks, with the 95 % interval
# from `low` to `high`; `published` is the paper's figure
HEADLINE = ("network", "data set", "counted", "published", "rate", "lost", "low", "high", "networks")


def papers() -> list[str]:
    """Names of the papers whose experiments are at hand, as the command line spells them."""
    package = importlib.import_module("course_lib.experiments")
    modules = (module.name for module in pkgutil.iter_modules(package.__path__))
    return sorted(
        name.replace("_", "-") for name in modules if hasattr(importlib.import_module(f"{package.__name__}.{name}"), "grid")
    )


def reproduce(
    paper: str,
    *,
    scale: str | None = None,
    seeds: int | None = None,
    device: str = "auto",
    scheduler: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Runs what is missing of a paper's experiments and gives all rows; see the module for where they are kept.

    Args:
        paper: as `papers` spells it, with dashes or underscores.
        scale: 'smoke', 'lesson' or 'paper'; default the scale in force.
        seeds: each setting runs on the networks 0 .. seeds - 1; default 5, and 3 for the papers on CIFAR-10.
        device: 'auto', 'cpu' or 'cuda'.
        scheduler: address of a running Dask scheduler, such as 'tcp://host:8786'; default a cluster of this machine's processes.
        progress: show a bar over rows.

    Raises:
        ValueError: unknown paper, fewer than one seed, a device that is not there, or a damaged results file.
        RuntimeError: some settings failed; the others are kept for the next call. The message says which and why.
    """
    name, scale = _known(paper), scale or scales.name()
    module = f"course_lib.experiments.{name.replace('-', '_')}"
    seeds = SEEDS.get(name, 5) if seeds is None else seeds
    unfinished, whole = _file(name, "smoke"), _file(name, scale)
    wanted = [key_of(setting) for setting in _wanted(module, scale, seeds)]
    bring(whole, unfinished, wanted)
    run_grid(
        module, unfinished, command=f"python -m course_lib reproduce {name} --scale {scale} --seeds {seeds}",
        scale=scale, seeds=seeds, device=device, scheduler=scheduler, progress=progress,
    )  # fmt: skip
    bring(unfinished, whole, wanted)
    return recorded(paper, scale)


def recorded(paper: str, scale: str = "lesson") -> pd.DataFrame:
    """The recorded rows of a paper at a scale, one line per compressed network; at smoke scale those below build.

    Raises:
        FileNotFoundError: there are none yet; the message names the command that makes them.
    """
    name = _known(paper)
    found = [row for row in read(_file(name, scale)) if row["scale"] == scale]
    if not found:
        advice = f"`python -m course_lib reproduce {name} --scale {scale}` makes them"
        raise FileNotFoundError(f"no recorded rows for {name} at {scale} scale; {advice}")
    return rows.frame(found)


def _file(name: str, scale: str) -> Path:
    return (UNFINISHED if scale == "smoke" else RESULTS) / f"{name.replace('-', '_')}.json"


def paper_table(paper: str, scale: str = "lesson") -> pd.DataFrame:
    """'paper / here' of the recorded rows of a scale; errors as of `recorded`."""
    return _module(_known(paper)).paper_table(recorded(paper, scale))


def overview(scale: str = "lesson") -> pd.DataFrame:
    """The main results of all papers that have rows at a scale: the columns 'paper' and HEADLINE."""
    tables = []
    for name, label in PAPERS.items():
        found = rows.frame(read(_file(name, scale)))
        if len(found) and (found.scale == scale).any():
            lines = _module(name).headline(found[found.scale == scale])
            if not lines.empty:
                tables.append(lines[list(HEADLINE)].assign(paper=f"{label}, {name.replace('-', ' ')}"))
    return pd.concat(tables, ignore_index=True)[["paper", *HEADLINE]] if tables else pd.DataFrame(columns=["paper", *HEADLINE])


def overview_table(scale: str = "lesson") -> pd.DataFrame:
    """`overview` in words."""
    table = overview(scale)
    ends = [
        f"{low:+.2f} to {high:+.2f}" if math.isfinite(low) else "none" for low, high in zip(table.low, table.high, strict=True)
    ]
    rates = table.rate.map(lambda rate: f"{rate:,.{int(rate < 100)}f}x")  # a tenth tells nothing where it is above 100
    table = table.assign(rate=rates, lost=table.lost.map("{:+.2f}".format), low=ends)
    names = dict(counted="what is counted", rate="here", lost="points lost here", low="95 % interval")
    return table.drop(columns="high").rename(columns=names)


def command(paper: str, *, scale: str, seeds: int | None, device: str, scheduler: str | None) -> int:
    """`python -m course_lib reproduce`: runs one paper or 'all', prints 'paper / here', gives the exit code."""
    failed = 0
    for name in PAPERS if paper == "all" else [_known(paper)]:
        try:
            reproduce(name, scale=scale, seeds=seeds, device=device, scheduler=scheduler)
        except RuntimeError as failures:
            print(failures)
            failed = 1
            continue
        print(f"\n{name}, rows of {_file(name, scale)}:")
        print(as_text(paper_table(name, scale)))
    if paper == "all":
        print(f"\nall papers, scale {scale}:\n{as_text(overview_table(scale))}")
    return failed


def run_grid(
    module: str,
    path: Path,
    *,
    command: str,
    scale: str,
    seeds: int,
    device: str = "auto",
    scheduler: str | None = None,
    progress: bool = True,
) -> None:
    """Runs the rows of `module`'s grid that `path` does not hold yet, and writes each into it as it finishes."""
    from tqdm.auto import tqdm

    wanted = _wanted(module, scale, seeds)
    if scheduler is None:  # workers of a cluster may have what this machine has not
        cluster.resolve_device(device)
    done = {key_of(row) for row in read(path)}
    missing = [setting for setting in wanted if key_of(setting) not in done]
    if not missing:
        return
    with (
        cluster.client(scheduler, device=device) as dask,
        tqdm(total=len(wanted), initial=len(wanted) - len(missing), disable=not progress) as bar,
    ):
        futures = {dask.submit(_row, module, setting, device, command, pure=False, retries=0): setting for setting in missing}
        try:
            failures = _collect(futures, path, bar)
        except KeyboardInterrupt:
            dask.cancel(list(futures))
            raise
    if failures:
        raise RuntimeError(f"{len(failures)} of {len(wanted)} rows failed, the others are in {path}:\n" + "\n".join(failures))


def _wanted(module: str, scale: str, seeds: int) -> list[dict]:
    """The settings of a run, each with its scale, fingerprint and seed."""
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; allowed are 1 and above")
    grid = importlib.import_module(module).grid(scale)
    marks = {setting["name"]: dict(scale=scale, fingerprint=fingerprints.fingerprint(module, setting, scale)) for setting in grid}
    networks = {setting["name"]: range(min(seeds, setting.get("seeds", seeds))) for setting in grid}
    return [setting | marks[setting["name"]] | dict(seed=seed) for setting in grid for seed in networks[setting["name"]]]


def _collect(futures: dict[Any, dict], path: Path, bar: Any) -> list[str]:
    """Write each row as it finishes, and take its future out of `futures`; return what failed, a line each."""
    from dask.distributed import as_completed

    failures = []
    for future in as_completed(list(futures)):
        setting = futures.pop(future)
        if future.status == "finished":
            add(path, future.result())
        else:
            failures.append(f"{setting['name']}, seed {setting['seed']}: {future.exception()!r}")
        future.release()  # otherwise Dask runs a recorded row again when the worker that holds it dies
        bar.update()
        bar.set_postfix_str(setting["name"])
    return failures


def _row(module: str, setting: dict, device: str, command: str) -> dict[str, Any]:
    """One row, in a worker: the figures and what is needed to make them again."""
    where = _device(device)
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("error", scales.StandInWarning)  # a row must not be of other data than it says
        figures = importlib.import_module(module).run(setting, seed=setting["seed"], scale=setting["scale"], device=where)
    about = dict(
        experiment=module.rpartition(".")[2], command=command, seconds=round(time.perf_counter() - start, 1),
        device=_described(where),
        versions=dict(python=platform.python_version(), torch=importlib.metadata.version("torch").split("+")[0]),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )  # fmt: skip
    return rows.checked(setting | figures | about)


def _device(wanted: str) -> str:
    """'cpu', or one GPU for each process of a local cluster; the workers of other clusters see the GPUs that they were given."""
    if cluster.resolve_device(wanted) == "cpu":
        return "cpu"

    import torch
    from dask.distributed import get_worker

    number = get_worker().name
    return f"cuda:{number % torch.cuda.device_count()}" if isinstance(number, int) else "cuda"


def _described(where: str) -> str:
    torch = sys.modules.get("torch")  # not imported for this alone: an experiment without it is a test's
    if where.startswith("cuda"):
        return torch.cuda.get_device_name(where)
    if torch is None:
        return "CPU"
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' * (threads != 1)}"


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"course_lib.experiments.{name.replace('-', '_')}")


def _known(paper: str) -> str:
    name = paper.replace("_", "-")
    if name not in papers():
        raise ValueError(f"paper is {paper!r}; known are {', '.join(papers())}")
    return name
