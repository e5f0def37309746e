"""The set-up: pyproject.toml, requirements.lock, environment.yml and Makefile say the same; the command line and its doctor."""

import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import course_lib
from course_lib import __main__ as command_line
from course_lib.commands import doctor

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
PINS = {
    requirement: re.findall(r"--hash=sha256:[0-9a-f]{64}", hashes)
    for requirement, hashes in re.findall(r"^([\w.-]+==[^\\\n]+?) *\\\n((?: +--hash=\S+ ?\\?\n)*)", LOCK, re.M)
}


def test_each_line_of_the_lock_is_an_exact_version_with_hashes():
    assert len(PINS) == len(re.findall(r"^[^\s#]", LOCK, re.M)) > 100
    assert all(PINS.values())


def test_the_lock_holds_no_address_and_no_path_of_a_machine():
    assert not re.search(r"://|@|--index|--find-links|/(home|root|tmp|Users)/", LOCK)


@pytest.mark.parametrize("python", ["3.11.0", "3.12.0", "3.13.0"])
@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_the_lock_satisfies_the_project(python, platform):
    assert SpecifierSet(PROJECT["requires-python"]).contains(python)
    here = {"python_full_version": python, "python_version": python[:-2], "sys_platform": platform}
    pins = [Requirement(line) for line in PINS]
    pinned = {pin.name: str(pin.specifier)[2:] for pin in pins if pin.marker is None or pin.marker.evaluate(here)}
    extras = [line for extra in PROJECT["optional-dependencies"].values() for line in extra]
    for wanted in map(Requirement, [*PROJECT["dependencies"], *extras]):
        assert wanted.specifier.contains(pinned[wanted.name]), f"{wanted} is locked at {pinned[wanted.name]}; run `make lock`"


def test_torch_and_torchvision_are_a_pair():
    pinned = doctor.lock(ROOT / "requirements.lock")
    if importlib.metadata.version("torchvision").partition("+")[0] != pinned["torchvision"]:
        pytest.skip("another torchvision than the locked one is installed, so its torch cannot be looked up")
    (wanted,) = (r for r in map(Requirement, importlib.metadata.requires("torchvision")) if r.name == "torch")
    assert wanted.specifier.contains(pinned["torch"])


def environment() -> tuple[list[str], list[str]]:
    """What conda installs, and the arguments for pip."""
    listed = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    (pip,) = (entry["pip"] for entry in listed if isinstance(entry, dict))
    return [entry for entry in listed if isinstance(entry, str)], pip


def test_conda_installs_the_interpreter_and_pip_the_project():
    conda, pip = environment()
    python, pip_itself = map(Requirement, conda)
    assert (python.name, pip_itself.name) == ("python", "pip")
    assert python.specifier == SpecifierSet(PROJECT["requires-python"])
    (line,) = pip
    extras = re.fullmatch(r"-e \.\[([\w,]+)\]", line)[1].split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"])


@pytest.mark.network
def test_the_pip_block_of_the_conda_environment_resolves(tmp_path):
    pytest.importorskip("uv", reason="uv is not installed in this environment")
    _, pip = environment()
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "install",
        "--dry-run",
        "--target",
        tmp_path,
        *(w for line in pip for w in shlex.split(line)),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\+ torch==", done.stderr)


def test_the_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == course_lib.__version__


def locked_packages() -> dict[str, tuple[str, set[str]]]:
    """Package -> its marker, and the packages that asked for it, as the comments of the lock tell."""
    blocks = re.findall(r"^([\w.-]+)==(\S+(?: ; [^\\\n]+)?).*\n((?: .*\n)*)", LOCK, re.MULTILINE)
    return {
        name: (marker, set(re.findall(r"# +(?:via )?((?!via$)[a-z][\w.-]*)(?= \(|$)", below, re.M)))
        for name, marker, below in blocks
    }


FAKE_PYTHON = """#!/bin/sh
# Stands for the interpreter of the system and of .venv: `-m venv` copies it, everything else goes to a log.
if [ "$2" = venv ]; then mkdir -p .venv/bin && cp "$0" .venv/bin/python; exit; fi
echo "$@" >> log
case "$*" in *requirements.lock*) test ! -e broken ;; *--torch-backend*) test ! -e offline ;; esac
"""


@pytest.fixture
def tree(tmp_path):
    """A tree with the Makefile and a fake interpreter, in a folder with a space in its name."""
    folder = tmp_path / "my courses"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, folder)
    (folder / "python").write_text(FAKE_PYTHON)
    (folder / "python").chmod(0o755)
    return folder


def set_up(tree: Path, *settings: str, python: str = "./python") -> tuple[subprocess.CompletedProcess, int]:
    """`make` of the environment, and how many commands its interpreters were given."""
    (tree / "log").write_text("")
    keep = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", ".venv/.installed", f"PYTHON={python}", *settings]
    done = subprocess.run(command, cwd=tree, env=keep, capture_output=True, text=True, timeout=240)
    return done, len((tree / "log").read_text().splitlines())


def test_set_up_is_done_once_and_again_where_something_changed(tree):
    done, commands = set_up(tree)
    assert done.returncode == 0, done.stderr
    assert commands == 5  # two looks at the interpreter, uv, the lock, the project
    assert set_up(tree)[1] == 0
    later = (tree / ".venv/.installed").stat().st_mtime + 5
    os.utime(tree / "requirements.lock", (later, later))
    assert set_up(tree)[1] == 2
    (tree / ".venv/.installed").touch()
    os.utime(tree / ".venv/.installed", (later, later))
    assert set_up(tree)[1] == 0
    moved = tree.rename(tree.parent / "moved courses")
    assert set_up(moved)[1] == 2
    assert "--require-hashes --compile-bytecode" in (moved / "log").read_text()


def test_an_interrupted_set_up_is_taken_up_again(tree):
    (tree / "broken").touch()
    assert set_up(tree)[0].returncode != 0
    assert set_up(tree)[0].returncode != 0
    (tree / "broken").unlink()
    done, commands = set_up(tree)
    assert done.returncode == 0
    assert commands == 2


def test_a_small_torch_comes_from_its_own_index_and_is_remembered(tree):
    done, commands = set_up(tree, "TORCH=cpu")
    assert (done.returncode, commands) == (0, 6), done.stderr
    lock, torch, project = (tree / "log").read_text().splitlines()[-3:]
    assert "--require-hashes --compile-bytecode --excludes .venv/.cuda -r requirements.lock" in lock
    pinned = doctor.lock(ROOT / "requirements.lock")
    versions = f"torch=={pinned['torch']} torchvision=={pinned['torchvision']}"
    assert torch.endswith(f"--no-deps --compile-bytecode --torch-backend cpu {versions}") and "--editable" in project
    assert set_up(tree)[1] == set_up(tree, "TORCH=cpu")[1] == 0
    later = (tree / ".venv/.installed").stat().st_mtime + 5
    os.utime(tree / "requirements.lock", (later, later))
    assert set_up(tree)[1] == 3 and "--torch-backend cpu" in (tree / "log").read_text()


def test_what_a_small_torch_does_without_is_what_the_lock_has_for_cuda(tree):
    """It is what only torch and its like ask for, and only on Linux; what else torch needs is for every system."""
    set_up(tree, "TORCH=cpu")
    left_out = set((tree / ".venv/.cuda").read_text().split())
    packages = locked_packages()
    cuda = {name for name, (marker, _) in packages.items() if "linux" in marker} | {"torch", "torchvision"}
    while others := {name for name in cuda - {"torch", "torchvision"} if not packages[name][1] <= cuda}:
        cuda -= others
    assert left_out == cuda and len(cuda) > 15 and "torch-pruning" not in cuda


def test_where_the_index_of_torch_does_not_answer_the_way_on_is_told(tree):
    (tree / "offline").touch()
    done, _ = set_up(tree, "TORCH=cpu")
    assert done.returncode != 0 and "try the same command again later" in done.stderr and "TORCH= in place" in done.stderr
    done, commands = set_up(tree, "TORCH=")
    assert (done.returncode, commands) == (0, 2) and "--excludes" not in (tree / "log").read_text()


def test_an_unknown_torch_and_one_too_late_are_told(tree):
    assert "TORCH is rocm; it can be cpu" in set_up(tree, "TORCH=rocm")[0].stderr
    assert set_up(tree)[0].returncode == 0
    done, commands = set_up(tree, "TORCH=cpu")
    assert commands == 0 and "remove .venv first" in done.stderr


@pytest.mark.network
def test_the_lock_without_cuda_resolves(tree, tmp_path):
    pytest.importorskip("uv", reason="uv is not installed in this environment")
    set_up(tree, "TORCH=cpu")
    command = [sys.executable, "-m", "uv", "pip", "install", "--dry-run", "--target", tmp_path / "target", "--require-hashes"]
    command += ["--excludes", tree / ".venv/.cuda", "-r", ROOT / "requirements.lock"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "+ torch-pruning==" in done.stderr and not re.search(r"\+ (torch|torchvision|triton|nvidia\S*)==", done.stderr)


@pytest.mark.parametrize(
    ("python", "message"),
    [
        ("false", "false is not Python 3.11, 3.12 or 3.13"),
        ("no-such-python", "no-such-python is not Python 3.11, 3.12 or 3.13"),
        ("./without-venv", "apt install python3-venv"),
    ],
)
def test_an_unfit_interpreter_is_told(tree, python, message):
    (tree / "without-venv").write_text('#!/bin/sh\ncase "$2" in *ensurepip*) exit 1 ;; esac\n')
    (tree / "without-venv").chmod(0o755)
    done, _ = set_up(tree, python=python)
    assert done.returncode != 0
    assert message in done.stderr
    assert not (tree / ".venv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["baselines", "lenet-6"], "network is 'lenet-6'; there are recipes for lenet-300-100"),
        (["baselines", "--dataset", "svhn"], "--dataset is 'svhn'; there are recipes for mnist"),
        (["baselines", "lenet-5", "--dataset", "cifar10"], "no recipe for lenet-5 on cifar10"),
        (["run", "--only", "99"], "no notebook's name begins with '99'"),
    ],
)
def test_a_mistake_is_told_in_one_line(arguments, message, capsys):
    assert command_line.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1


QUICK = {
    "--help": 0,
    "frobnicate": 2,
    "methods thinnet": 2,
    "reproduce weight-watching": 2,
    "run --only 99": 2,
    "work 42": 2,
    "inspect no-such-file": 2,
    "compress no-such-file --out x": 2,
    "prune no-such-file --model lenet-5 --method thinnet --out x": 2,
    "grade --submissions no-such-folder --out x": 2,
    "grade --submissions data --out x --format blackboard --roster README.md": 2,
    "grade --submissions data --out x --format canvas": 2,
    "grade --submissions data --out x --format canvas --roster README.md": 2,
    "score no-such-file": 2,
    "challenge --submissions no-such-folder --out x": 2,
}
HEAVY = ("torch", "pandas", "nbformat", "nbclient", "nbgrader", "dask", "matplotlib", "IPython")


def imported_by(arguments: str) -> tuple[subprocess.CompletedProcess, set[str]]:
    """A command that has run, and the modules it imported. An import of torch takes seconds; a clock would not tell why."""
    command = [sys.executable, "-X", "importtime", "-m", "course_lib", *arguments.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "argparse" in imported
    return done, imported


@pytest.mark.parametrize("arguments", QUICK)
def test_help_and_mistakes_import_nothing_heavy(arguments):
    done, imported = imported_by(arguments)
    assert done.returncode == QUICK[arguments] and imported.isdisjoint(HEAVY)
    said = "".join(line for line in done.stderr.splitlines() if not line.startswith("import time:"))
    assert max(map(len, done.stdout.splitlines()), default=0) <= 100
    assert "Errno" not in said and ("error: " in said) == (done.returncode == 2)


SECOND_VERSION = bytes.fromhex(
    "c26e1e002e8b5652d2898e564a4b36d42b4fcd4ccf2801728d748c63750c627520c2499989c520c1581d259b3413a5d8d858000100380000803f0000803fa87c"
)


@pytest.mark.parametrize("version", [1, 2])
def test_a_file_is_inspected_without_torch(tmp_path, version):
    file = ROOT / "data/checkpoints/lenet-5.mnist-5k.pruned-paper.cnet"
    if version == 2:
        file = tmp_path / "small.cnet"
        file.write_bytes(SECOND_VERSION)
    done, imported = imported_by(f"inspect {file}")
    assert done.returncode == 0 and "fc1.weight" in done.stdout
    assert imported.isdisjoint(set(HEAVY) - {"pandas"})


def test_the_system_s_reasons_come_without_their_numbers(monkeypatch, capsys):
    def refuse(*_):
        raise PermissionError(13, "Permission denied", "/a file")

    monkeypatch.setattr("course_lib.data.download.command", refuse)
    assert command_line.main(["data", "mnist"]) == 2
    assert capsys.readouterr().err == "error: /a file: Permission denied\n"


def test_the_papers_are_known_by_name_without_their_modules():
    from course_lib import methods, papers
    from course_lib.experiments import runner

    assert papers.names() == sorted(methods.METHODS) == sorted(set(runner.PAPERS) - {"comparison", "combined", "smallest"})


@pytest.mark.parametrize("command", ["run", "release"])
def test_a_notebook_s_number_needs_no_zero(monkeypatch, command):
    asked = []
    monkeypatch.setattr("course_lib.commands.execute.command", lambda only, **_: asked.append(only) or 0)
    monkeypatch.setattr("course_lib.classroom.release.command", lambda only, out: asked.append(only) or 0)
    assert command_line.main([command, "--only", "1"]) == 0
    assert asked == ["01"]


def test_scale_on_the_command_line_wins_over_the_environment(monkeypatch):
    monkeypatch.setenv("COURSE_SCALE", "nonsense")
    assert command_line.main(["run", "--only", "99"]) == 2
    seen = []
    monkeypatch.setattr("course_lib.commands.execute.command", lambda *_, **__: seen.append(os.environ["COURSE_SCALE"]) or 3)
    assert command_line.main(["run", "--scale", "lesson"]) == 1
    assert seen == ["lesson"]


def test_an_interrupt_and_a_bug_are_told_apart(monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    def stumble(*_, **__):
        raise TypeError

    monkeypatch.setattr("course_lib.commands.execute.command", stop)
    assert command_line.main(["run"]) == 130
    assert capsys.readouterr().err == "interrupted\n"
    monkeypatch.setattr("course_lib.commands.execute.command", stumble)
    with pytest.raises(TypeError):
        command_line.main(["run"])


def test_baselines_trains_what_was_asked_for(monkeypatch, capsys):
    from course_lib import models

    asked = []
    monkeypatch.setattr(models, "train", lambda *pair, **rest: asked.append((*pair, rest)) or {"accuracy": 0.5, "seconds": 7})
    assert command_line.main(["baselines", "lenet-5", "--device", "cpu", "--seed", "3"]) == 0
    rest = {"seed": 3, "device": "cpu"}
    assert asked == [("lenet-5", "mnist", rest), ("lenet-5", "mnist-5k", rest)]
    assert capsys.readouterr().out.splitlines()[0] == "lenet-5 on mnist: accuracy 50.00% after 7 s"


def test_the_doctor_tells_in_which_precision_convolutions_train(monkeypatch):
    import torch

    for supported, precision in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda supported=supported: supported)
        assert f"trains convolutions in {precision}" in next(doctor.devices()).what


def test_the_doctor_tells_whether_submissions_can_be_graded(monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda program: None)
    assert doctor.grading().state == "hint" and "bubblewrap" in doctor.grading().mend
    monkeypatch.setattr(doctor.shutil, "which", lambda program: f"/usr/bin/{program}")
    assert doctor.grading().state == "ok"


def test_the_doctor_tells_a_missing_an_unfit_and_another_package_apart():
    torch = importlib.metadata.version("torch")
    assert doctor.package(Requirement("torch>=2"), torch.partition("+")[0]) == ("ok", f"torch {torch}", "")
    assert doctor.package(Requirement("torch>=2"), "9.9")[:2] == ("ok", f"torch {torch} (tested with 9.9)")
    assert doctor.package(Requirement("torch>=99"), "99.0") == (
        "missing",
        f"package torch>=99; {torch} is installed",
        doctor.INSTALL,
    )
    assert doctor.package(Requirement("no-such-package"), "1.0")[0] == "missing"


def test_the_doctor_finds_packages_and_python_in_order():
    findings = list(doctor.packages())
    assert len(findings) == 1 + len(PROJECT["dependencies"])
    assert {finding.state for finding in findings} == {"ok"}


def test_the_doctor_finds_absent_and_damaged_checkpoints(monkeypatch, tmp_path):
    import torch

    from course_lib import models

    monkeypatch.setattr(models.pretraining, "CHECKPOINTS", tmp_path)
    torch.manual_seed(0)
    for network in ("lenet-5", "lenet-300-100"):
        path = models.save_checkpoint(models.build(network), network, "mnist", {"accuracy": 0.125})
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    lenet_300_100, lenet_5, *others = doctor.checkpoints()
    assert lenet_5 == ("ok", "checkpoint lenet-5 on mnist, network 0, accuracy 12.50%", "")
    assert lenet_300_100.state == "missing"
    assert "damaged" in lenet_300_100.what
    assert {(other.state, "not there" in other.what) for other in others} == {("missing", True)}
    assert "baselines resnet-20 --dataset cifar10" in str(others)


def test_the_doctor_reports_data_and_settings(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    (tmp_path / "MNIST/raw").mkdir(parents=True)
    (tmp_path / "MNIST/raw/train-images-idx3-ubyte").touch()
    mnist, cifar10, _ = doctor.data_sets()
    assert mnist.state == "ok"
    assert cifar10[::2] == ("hint", "python -m course_lib data cifar10")
    assert ("ok", f"COURSE_DATA={tmp_path}", "") in list(doctor.settings())
    monkeypatch.setenv("COURSE_SCALE", "huge")
    assert list(doctor.settings())[-1].state == "missing"


def test_the_doctor_s_verdict(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "packages", lambda: [doctor.Finding("missing", "torch", "make lab")])
    monkeypatch.setattr(doctor, "devices", lambda: pytest.fail("looked on where torch is missing"))
    assert doctor.command() == 1
    assert "mend it by: make lab" in capsys.readouterr().out
