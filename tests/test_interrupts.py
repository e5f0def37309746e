"""Ctrl-C: a real signal to a real process in the middle of training, and nothing half-done is taken for a result.

A process runs pieces of the library on few data, as it is told. At a certain step of SGD it prints a line and waits; the parent
has read the line before it sends the signal. Checkpoints are a copy, so a failing test does no damage.
"""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from jupyter_client import KernelManager

from course_lib import notebook
from course_lib.models.pretraining import CHECKPOINTS
from tests.processes import ROOT, kill

# 64 images: one step of SGD an epoch
PRELUDE = """
import dataclasses, itertools, json, os, signal, sys, time
from pathlib import Path
from unittest import mock
import torch
from course_lib import data, models, training

if __name__ == "__main__":  # a shell's background job begins with the signal ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)
models.pretraining.CHECKPOINTS = Path("checkpoints").resolve()
step, steps, load, at = training.fitting._step, itertools.count(1), data.load, 1

def wait_for_the_signal():
    print("training", flush=True)
    time.sleep(600)

def marked(*arguments):
    if next(steps) == at:
        wait_for_the_signal()
    return step(*arguments)

def few(name, scale=None, **settings):  # stand-ins at every scale
    splits = load(name, **settings)
    parts = dict(train=splits.train.take(64), validation=splits.validation.take(50), test=splits.test.take(50))
    return dataclasses.replace(splits, **parts)

training.fitting._step, data.load = marked, few
"""
SERVE = """
for line in sys.stdin:
    order = json.loads(line)
    os.chdir(order["folder"])
    models.pretraining.BUILT, models.pretraining.STATES = (Path("build", name).resolve() for name in ("checkpoints", "baselines"))
    steps, at = itertools.count(1), order["at"]
    try:
        exec(order["code"], dict(globals()))
        print("a result", flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def run(module: str, setting: dict, scale: str = "smoke") -> str:
    """Code that makes one row."""
    name = f"course_lib.experiments.{module}"
    return f"import {name}; {name}.run({setting}, seed=0, scale={scale!r}, device='cpu')"


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@contextlib.contextmanager
def script(folder: Path, text: str) -> Iterator[subprocess.Popen]:
    """A process that runs a script in a folder, in a session of its own; killed at the end."""
    (folder / "script.py").write_text(text)
    process = subprocess.Popen(
        [sys.executable, "script.py"], cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, start_new_session=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        kill(process)
        for pipe in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


class Library:
    """The process that runs pieces of the library, and the folder with its copy of the checkpoints."""

    def __init__(self, process: subprocess.Popen, checkpoints: Path):
        self.process, self.checkpoints = process, checkpoints

    def interrupted(self, folder: Path, code: str, at: int = 1) -> bool:
        """Runs code in a folder, interrupts it before step `at`; gives whether the interrupt came out of it."""
        self.process.stdin.write(json.dumps(dict(folder=str(folder), code=code, at=at)) + "\n")
        self.process.stdin.flush()
        said = self.process.stdout.readline()
        assert said == "training\n", f"it said {said!r}; {'' if said else self.process.stderr.read()}"
        self.process.send_signal(signal.SIGINT)
        return self.process.stdout.readline() == "interrupted\n"


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Iterator[Library]:
    folder = tmp_path_factory.mktemp("library")
    shutil.copytree(CHECKPOINTS, folder / "checkpoints")
    with script(folder, PRELUDE + SERVE) as process:
        yield Library(process, folder / "checkpoints")


RATE = dict(kind="rate", network="lenet-300-100", rate=12, method="iterative", lr=0.1)
CURVES = dict(kind="curves", network="lenet-300-100", lr=0.1)
ROWS = {
    "weight pruning, a round": ("weight_pruning", RATE, 2),
    "weight pruning, the last training": ("weight_pruning", RATE, 3),
    "weight pruning, first of two groups": (
        "weight_pruning",
        dict(kind="turns", network="lenet-5", rate=12, method="in turns", lr=0.1),
        1,
    ),
    "weight pruning, the network with L1": ("weight_pruning", CURVES | dict(group="L1"), 1),
    "weight pruning, a curve": ("weight_pruning", CURVES | dict(group="iterative"), 4),
    "weight pruning, a variant": ("weight_pruning", RATE | dict(kind="variant", method="random connections"), 3),
    "network trimming, a round": ("network_trimming", dict(kind="rounds"), 1),
    "network trimming, cut at once": ("network_trimming", dict(kind="rounds"), 3),
    "network trimming, many layers": ("network_trimming", dict(kind="many", method="three layers at once", rate="13.4x"), 1),
    "network trimming, a criterion": ("network_trimming", dict(kind="criterion", method="L1 norm"), 1),
    "network trimming, a width": ("network_trimming", dict(kind="width", conv2=12, fc1=500), 2),
    "thinet, tuning after a layer": ("thinet", dict(kind="tuning", network="vgg-small"), 2),
    "deep compression, stages": ("deep_compression", dict(kind="stages", network="lenet-300-100", setting="paper"), 1),
    "deep compression, bits": ("deep_compression", dict(kind="bits", network="lenet-300-100", plan="paper", start="linear"), 1),
}


@pytest.mark.parametrize("name", ROWS)
def test_no_row_is_made_of_what_was_interrupted(library, tmp_path, name):
    module, setting, at = ROWS[name]
    before = digests(library.checkpoints)
    assert library.interrupted(tmp_path, run(module, setting), at)
    assert digests(library.checkpoints) == before and not list(tmp_path.iterdir())


VGG = dict(name="one", network="vgg-small")
STATES = {
    "filter pruning": ("filter_pruning", VGG | dict(kind="as published", plan="A")),
}


@pytest.mark.parametrize("name", STATES)
def test_what_was_trained_is_kept_for_the_next_try(library, tmp_path, name):
    """Interrupted in the second epoch, twice: no row, and the state of the first epoch stays."""
    module, setting = STATES[name]
    state = tmp_path / "build" / "experiments" / f"{module.replace('_', '-')} one 0.pt"
    for at in (2, 1):  # the second try begins with the second epoch
        assert library.interrupted(tmp_path, run(module, setting, "lesson"), at)
        assert len(torch.load(state)["epochs"]) == 1


# As if the network had no committed checkpoint, as the paper's have none
def test_a_network_that_did_not_come_with_the_course_is_not_kept_before_it_is_trained(library, tmp_path):
    code = "models.pretrained('vgg-small', 'mnist-m', seed=1)"
    kept, state = tmp_path / "build/checkpoints", tmp_path / "build/baselines/vgg-small.mnist-m.1.pt"
    assert library.interrupted(tmp_path, code)
    assert not list(kept.glob("*.safetensors")) and not state.exists()
    for at in (2, 1):  # each try trains, none finds a half-trained network
        assert library.interrupted(tmp_path, code, at)
        assert not list(kept.glob("*.safetensors")) and len(torch.load(state)["epochs"]) == 1


def test_a_committed_baseline_is_not_overwritten_and_its_state_is_kept(library, tmp_path):
    before = digests(library.checkpoints)
    train = "models.train('lenet-300-100', 'mnist-5k')"
    assert library.interrupted(tmp_path, train, at=2)
    assert digests(library.checkpoints) == before
    assert len(torch.load(tmp_path / "build/baselines/lenet-300-100.mnist-5k.0.pt")["epochs"]) == 1


def test_a_pruned_start_is_not_stored_before_it_is_done(library, tmp_path):
    """Deep Compression prunes a network that is missing first, in rounds."""
    before = digests(library.checkpoints)
    code = "from course_lib.experiments import pruned_starts; pruned_starts.BUILT = Path('build/pruned').resolve(); "
    code += run("deep_compression", dict(kind="start", network="lenet-300-100", plan="33x"))
    assert library.interrupted(tmp_path, code, at=4)
    assert digests(library.checkpoints) == before and not digests(tmp_path)


CUT_OFF_WRITE = """
save = torch.save
def slow(state, file):
    save(state, file)
    if len(state["epochs"]) == 2:
        file.write_bytes(file.read_bytes()[:1000])
        wait_for_the_signal()
with mock.patch.object(torch, "save", slow):
    training.fit(models.build("lenet-300-100"), data.load("mnist"), epochs=5, resume_from="state.pt", progress=False)
"""


def test_a_state_that_is_being_written_is_the_one_before(library, tmp_path):
    assert library.interrupted(tmp_path, CUT_OFF_WRITE, at=0)
    assert len(torch.load(tmp_path / "state.pt")["epochs"]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def ended(process: subprocess.Popen, interrupt) -> tuple[str, str]:
    """Interrupts a script when it says that it trains; gives what it printed afterwards, to stdout and stderr."""
    said = process.stdout.readline()
    assert said == "training\n", f"it said {said!r}; {'' if said else process.stderr.read()}"
    interrupt(process.pid, signal.SIGINT)
    return process.communicate(timeout=240)


def test_a_script_ends_by_the_interrupt(tmp_path):
    shutil.copytree(CHECKPOINTS, tmp_path / "checkpoints")
    with script(tmp_path, PRELUDE + run("weight_pruning", RATE) + "\nprint('a result')") as process:
        out, err = ended(process, os.kill)
        assert process.returncode == -signal.SIGINT and not out
        assert err.strip().endswith("KeyboardInterrupt")


REPRODUCE = """
from course_lib.__main__ import main
from course_lib import cluster
from course_lib.experiments import runner
runner.RESULTS = runner.UNFINISHED = Path("results").resolve()
cluster.cores = lambda: 1
if __name__ == "__main__":
    sys.exit(main("reproduce weight-pruning --scale smoke --seeds 1 --device cpu".split()))
"""


def test_reproduce_ends_with_130_and_without_rows(tmp_path):
    """Ctrl-C reaches every process of the terminal's group, workers included."""
    shutil.copytree(CHECKPOINTS, tmp_path / "checkpoints")
    with script(tmp_path, PRELUDE + REPRODUCE) as process:
        _, err = ended(process, os.killpg)
        assert process.returncode == 130 and "\ninterrupted\n" in err
    assert not list((tmp_path / "results").glob("*.json"))


CELLS = {
    "start": "from course_lib import notebook, training\nenv = notebook.start()",
    "train": """
step = training.fitting._step
def marked(*arguments):
    print("training", flush=True)
    return step(*arguments)
training.fitting._step = marked
model = env.baseline("lenet-300-100")
history = training.fit(model, env.splits, epochs=10_000, progress=False)
""",
    "next": "print('the next cell')",
    "later": "print(model.training, 'history' in globals(), training.evaluate(model, env.splits.test) > 0.5)",
}


@pytest.fixture
def kernel(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(ROOT))
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=120)
        yield manager, client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def outputs(client, until_idle_after: str, stop_at: str | None = None) -> list[dict]:
    """Messages about a cell, until it is done or has printed a word."""
    found = []
    while True:
        message = client.get_iopub_msg(timeout=120)
        if message["parent_header"].get("msg_id") != until_idle_after:
            continue
        found.append(message)
        if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
            return found
        if stop_at and stop_at in message["content"].get("text", ""):
            return found


def reply(client, to: str) -> dict:
    while True:
        message = client.get_shell_msg(timeout=120)
        if message["parent_header"].get("msg_id") == to:
            return message["content"]


def ran(client, source: str) -> list[dict]:
    """Messages about a cell that ran: for a moment after an error the kernel refuses whatever comes."""
    while True:
        asked = client.execute(source)
        found = outputs(client, asked)
        if reply(client, asked)["status"] != "aborted":
            return found


def test_a_cell_that_is_interrupted_ends_in_a_sentence_and_stops_run_all(kernel):
    manager, client = kernel
    assert reply(client, client.execute(CELLS["start"]))["status"] == "ok"
    train, following = client.execute(CELLS["train"]), client.execute(CELLS["next"])
    outputs(client, train, stop_at="training")
    manager.interrupt_kernel()
    shown = outputs(client, train)
    texts = "".join(message["content"]["text"] for message in shown if message["msg_type"] == "stream")
    assert notebook.INTERRUPTED in texts and "Traceback" not in texts
    assert "error" not in {message["msg_type"] for message in shown}
    failed = reply(client, train)
    assert (failed["status"], failed["ename"], failed["traceback"]) == ("error", "KeyboardInterrupt", [])
    assert reply(client, following)["status"] == "aborted"
    assert any("False False True" in message["content"].get("text", "") for message in ran(client, CELLS["later"]))


def test_the_sentence_says_what_happened_and_how_to_go_on():
    assert all(words in notebook.INTERRUPTED for words in ("interrupted", "Nothing half-done was kept", "run it again"))
