"""What runs elsewhere, and cannot be run here: workflow files and the dev container, against schemas and against this project."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from course_lib.__main__ import parser

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CONTAINER = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PYTHONS = ["3.11", "3.12", "3.13"]


def jobs() -> dict[str, dict]:
    parsed = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in WORKFLOWS}
    return {f"{stem} {name}": job for stem, workflow in parsed.items() for name, job in workflow["jobs"].items()}


def commands() -> list[str]:
    """Every line that a workflow or the container runs."""
    steps = [step["run"] for job in jobs().values() for step in job["steps"] if "run" in step]
    return [
        line.strip() for step in [*steps, CONTAINER["postCreateCommand"]] for line in re.split(r"\n|&&", step) if line.strip()
    ]


def test_the_workflows_fit_the_schema():
    pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed; `make setup` installs it")
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS]
    done = subprocess.run(check, capture_output=True, text=True, timeout=50)
    assert WORKFLOWS and done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("job", jobs())
def test_a_job_tries_every_python_of_the_project(job):
    allowed = SpecifierSet(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"])
    assert jobs()[job]["strategy"]["matrix"]["python"] == PYTHONS
    assert [minor for minor in range(20) if allowed.contains(f"3.{minor}.0")] == [int(python[2:]) for python in PYTHONS]


def test_linux_macos_and_windows_are_tried_for_each_change_and_each_week():
    parsed = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in WORKFLOWS}
    for stem, trigger in (("tests", "pull_request"), ("newest", "schedule")):
        assert trigger in parsed[stem][True]  # YAML 1.1 reads the key `on` as true
        systems = str([(job["runs-on"], job["strategy"]["matrix"]) for job in parsed[stem]["jobs"].values()])
        assert all(f"{system}-latest" in systems for system in ("ubuntu", "macos", "windows"))


def test_what_is_run_is_there():
    found = {kind: [line for line in commands() if line.startswith(kind)] for kind in ("make ", ".ci/", "python -m pytest")}
    assert all(found.values())
    for line in found["make "]:
        assert re.search(rf"^{line.split()[1]}: ", MAKEFILE, re.MULTILINE), line
    for line in found["python -m pytest"]:
        assert all((ROOT / word).exists() for word in line.split() if word.startswith("tests")), line
    for line in (line for line in commands() if "-m course_lib" in line):
        parser().parse_args(line.partition("-m course_lib ")[2].split())
