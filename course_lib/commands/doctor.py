"""`python -m course_lib doctor`: what is installed and at hand, and the command that mends what is not."""

import importlib.metadata
import os
import platform
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from course_lib.files import ROOT

INSTALL = "make lab, or pip install -e .[test]"


class Finding(NamedTuple):
    """One line of the report. 'missing' is something the course cannot do without; a 'hint' can wait."""

    state: Literal["ok", "hint", "missing"]
    what: str
    mend: str = ""  # the command that puts it right

    def __str__(self) -> str:
        return f"{self.state:8}{self.what}" + (f"\n{'':8}mend it by: {self.mend}" if self.mend else "")


def command() -> int:
    """Prints the report; 1 where something is missing that the course cannot do without, else 0."""
    findings = list(packages())
    if not any(finding.state == "missing" for finding in findings):  # the rest needs torch
        findings += [*devices(), *checkpoints(), *data_sets(), grading(), *settings()]
    for finding in findings:
        print(finding)
    missing = sum(finding.state == "missing" for finding in findings)
    print(f"\n{missing} thing(s) missing" if missing else "\nall the course needs is here")
    return int(missing > 0)


def packages(root: Path = ROOT) -> Iterator[Finding]:
    """Python and the project's packages against pyproject.toml (they must fit) and requirements.lock (they may differ)."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    python, allowed = platform.python_version(), project["requires-python"]
    fits = SpecifierSet(allowed).contains(python)
    yield Finding("ok", f"Python {python}") if fits else Finding("missing", f"Python {allowed}; this is {python}", INSTALL)
    locked = lock(root / "requirements.lock")
    for wanted in map(Requirement, project["dependencies"]):
        yield package(wanted, locked[wanted.name])


def lock(path: Path) -> dict[str, str]:
    """Package -> version that requirements.lock names for this interpreter and platform."""
    lines = (line.removesuffix("\\") for line in path.read_text(encoding="utf-8").splitlines() if line[:1].isalnum())
    pinned = [Requirement(line) for line in lines]
    return {r.name: str(r.specifier)[2:] for r in pinned if r.marker is None or r.marker.evaluate()}


def package(wanted: Requirement, locked: str) -> Finding:
    """Whether `wanted` is installed, and whether it is the `locked` version that the course was tested with."""
    try:
        version = importlib.metadata.version(wanted.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding("missing", f"package {wanted} is not installed", INSTALL)
    if not wanted.specifier.contains(version, prereleases=True):
        return Finding("missing", f"package {wanted}; {version} is installed", INSTALL)
    note = "" if version.split("+")[0] == locked else f" (tested with {locked})"  # torch's own builds add +cpu, +cu130
    return Finding("ok", f"{wanted.name} {version}{note}")


def devices() -> Iterator[Finding]:
    """Where networks are trained, and in which precision."""
    import torch

    from course_lib.training import fastest_precision

    precision = str(fastest_precision(torch.nn.Conv2d(1, 1, 1), torch.device("cpu"))).removeprefix("torch.")
    threads = torch.get_num_threads()
    yield Finding("ok", f"CPU: {os.cpu_count()} cores, torch uses {threads} threads and trains convolutions in {precision}")
    if not torch.cuda.is_available():
        yield Finding("hint", "no CUDA device: lesson scale is made for that, paper scale is not")
    for index in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(index)
        yield Finding("ok", f"CUDA device {index}: {device.name}, {device.total_memory / 2**30:.0f} GiB")


def checkpoints() -> Iterator[Finding]:
    """The trained networks that the notebooks start from: there, and with the hash their side file records."""
    from course_lib.models import COMMITTED, checkpoint_facts, pretrained

    for network, dataset, seed in [(*pair, seed) for pair, count in COMMITTED.items() for seed in range(count)]:
        what = f"checkpoint {network} on {dataset}, network {seed}"
        mend = f"git checkout -- data/checkpoints, or python -m course_lib baselines {network} --dataset {dataset} --seed {seed}"
        try:
            pretrained(network, dataset, seed)
            accuracy = checkpoint_facts(network, dataset, seed)["accuracy"]
        except FileNotFoundError:
            yield Finding("missing", f"{what} is not there", mend)
        except ValueError as reason:
            yield Finding("missing", f"{what}: {reason}", mend)
        else:
            yield Finding("ok", f"{what}, accuracy {accuracy:.2%}")


def data_sets() -> Iterator[Finding]:
    """The data sets; one that is absent is fetched when it is first needed."""
    from course_lib import data

    root = data.root_folder()
    for name in data.REAL:
        if data.find(name, root):
            yield Finding("ok", f"data set {name} in {root}")
        else:
            yield Finding("hint", f"data set {name} is not in {root}", f"python -m course_lib data {name}")
    existing = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    free = shutil.disk_usage(existing).free / 2**30
    yield Finding(
        "ok" if free > 1 else "hint", f"{free:.1f} GiB free on the disk of {existing}; CIFAR-10 wants 0.4 while it is fetched"
    )


def grading() -> Finding:
    """The sandbox that submissions are graded in."""
    if shutil.which("bwrap"):
        return Finding("ok", "bubblewrap, for grading")
    return Finding("hint", "bubblewrap is not installed; grading needs it, and nothing else does", "apt install bubblewrap")


def settings() -> Iterator[Finding]:
    """The environment variables that steer the course."""
    from course_lib import scale

    for variable in sorted(name for name in os.environ if name.startswith("COURSE_")):
        yield Finding("ok", f"{variable}={os.environ[variable]}")
    try:
        yield Finding("ok", f"scale {scale.name()}")
    except ValueError as reason:
        yield Finding("missing", str(reason), "unset COURSE_SCALE")
