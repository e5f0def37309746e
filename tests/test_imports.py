"""Imports point one way: each module may import what lies below it, and nothing beside or above it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From the ground up. A package stands for all its modules.
STOREYS = [
    ["course_lib"],
    ["scale", "files", "tables", "modes", "masks", "freezing", "streams", "evidence"],
    ["data", "kmeans", "least_squares", "cluster", "coding"],
    ["activations"],
    ["surgery"],
    ["storage", "cost", "training", "distillation"],
    ["result", "plans", "models"],
    ["papers", "machine", "smallest"],
    ["methods"],
    ["experiments"],
    ["classroom"],
    ["desk"],
    ["notebook", "lab"],
    ["drawings", "challenge"],
    ["lessons", "play", "commands", "book"],  # leaves: only the command line calls some
    ["__main__"],
]
APART = {"papers", "lessons", "play"}  # packages whose modules do not import one another; those of the others may
HISTORY = {("papers.deep_compression", "papers.weight_pruning")}
HEIGHT = {room: height for height, rooms in enumerate(STOREYS) for room in rooms}


def imports(source: str, modules: set[str]) -> Iterator[str]:
    """Names of the course's modules that `source` imports, inside functions too, without the leading `course_lib.`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            while name.startswith("course_lib.") and name.removeprefix("course_lib.") not in modules:
                name = name.rpartition(".")[0]  # a function or class: its module
            if name.partition(".")[0] == "course_lib":
                yield name.removeprefix("course_lib.")


def violations(sources: dict[str, str]) -> list[str]:
    """Arrows that point the wrong way, among modules given as name -> source."""
    wrong = []
    for importer, source in sources.items():
        for imported in imports(source, set(sources)):
            room, other = importer.partition(".")[0], imported.partition(".")[0]
            allowed = HEIGHT[other] < HEIGHT[room] or (room == other and room not in APART) or (importer, imported) in HISTORY
            if not allowed:
                wrong.append(f"{importer} imports {imported}")
    return list(dict.fromkeys(wrong))  # one line may import several names of a module


def course_modules() -> dict[str, str]:
    paths = sorted((ROOT / "course_lib").rglob("*.py"))
    names = [".".join(path.relative_to(ROOT / "course_lib").with_suffix("").parts).removesuffix(".__init__") for path in paths]
    return {
        name.replace("__init__", "course_lib"): path.read_text(encoding="utf-8") for name, path in zip(names, paths, strict=True)
    }


def test_every_module_has_its_storey():
    unknown = {name for name in course_modules() if name.partition(".")[0] not in HEIGHT}
    assert not unknown, f"give these a storey in STOREYS: {unknown}"


def test_the_course_keeps_the_arrows():
    assert violations(course_modules()) == []


@pytest.mark.parametrize(
    ("importer", "line"),
    [
        ("data", "import course_lib.training"),
        ("scale", "def f():\n    from course_lib.data import load"),
        ("training", "from course_lib import papers"),
        ("papers.thinet", "from course_lib.papers.weight_pruning import prune"),
        ("papers.thinet", "from course_lib.papers import weight_pruning"),
        ("cost", "from course_lib import training"),
        ("notebook.plots", "from course_lib.lessons import thinet"),
        ("experiments.thinet", "from course_lib.notebook.plots import curves"),
    ],
)
def test_an_arrow_that_points_the_wrong_way_is_seen(importer, line):
    names = [
        "data",
        "scale",
        "training",
        "papers",
        "papers.thinet",
        "papers.weight_pruning",
        "cost",
        "lessons.thinet",
        "notebook",
    ]
    assert len(violations(dict.fromkeys(names, "") | {importer: line})) == 1


@pytest.mark.parametrize(
    ("importer", "line"),
    [
        ("data", "def f():\n    from course_lib.data.download import fetch"),
        ("papers.deep_compression", "from course_lib.papers.weight_pruning import prune"),
        ("experiments.thinet", "from course_lib.experiments import runner"),
        ("data", "from course_lib.data import download"),
        ("notebook", "from course_lib import __version__"),
        ("notebook", "import torch, course_lib.papers.thinet"),
    ],
)
def test_an_arrow_that_points_the_right_way_is_left_alone(importer, line):
    names = [
        "course_lib",
        "data",
        "data.download",
        "papers",
        "papers.thinet",
        "papers.weight_pruning",
        "experiments.runner",
        "notebook",
    ]
    assert violations(dict.fromkeys(names, "") | {importer: line}) == []
