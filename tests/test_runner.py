"""The runner, with real processes: rows are written once, whatever is killed."""

import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from course_lib import cluster
from course_lib.experiments import row_files, runner
from tests.processes import ROOT, dask_cluster, kill, wait_until

RUN = """
from pathlib import Path
from course_lib.experiments.runner import run_grid
if __name__ == "__main__":
    run_grid("tests.toy_experiment", Path({path!r}), {arguments})
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Sets the toy experiment up; gives the results file and the log of what ran."""
    monkeypatch.setenv("TOY_LOG", str(tmp_path / "log"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(cluster, "cores", lambda: 1)  # in this process; those that a test starts have a worker a core
    (tmp_path / "log").touch()
    return tmp_path / "rows.json", tmp_path / "log"


def arguments(**changes) -> dict:
    return dict(command="none", scale="smoke", seeds=2, device="cpu", progress=False) | changes


def start(path: Path, **changes) -> subprocess.Popen:
    text = ", ".join(f"{key}={value!r}" for key, value in arguments(**changes).items())
    script = path.with_name(f"run_{time.monotonic_ns()}.py")  # a file: workers are spawned and import it
    script.write_text(RUN.format(path=str(path), arguments=text))
    return subprocess.Popen([sys.executable, str(script)], cwd=ROOT, start_new_session=True)


@pytest.fixture
def gate(tmp_path, monkeypatch) -> Path:
    """Rows of the toy experiment wait there, see `toy_experiment`."""
    monkeypatch.setenv("TOY_GATE", str(tmp_path / "gate"))
    (tmp_path / "gate").mkdir()
    return tmp_path / "gate"


def let_pass(gate: Path, rows: int) -> None:
    for number in range(rows):
        (gate / f"ticket {number}").touch()


def wait_for_rows(path: Path, count: int, process: subprocess.Popen) -> None:
    wait_until(lambda: path.exists() and len(found(path)) >= count, f"{count} rows", process)


def workers_of(log: Path) -> list[int]:
    """The process of each row that has begun."""
    return [int(line.split()[2]) for line in log.read_text().splitlines() if line.endswith("smoke")]


def expected(settings: int, seeds: int) -> Counter:
    return Counter((f"setting {i:02}", seed, i * i + seed) for i in range(settings) for seed in range(seeds))


def found(path: Path) -> Counter:
    return Counter((row["name"], row["seed"], row["value"]) for row in json.loads(path.read_text()))


def test_rows_are_complete_sorted_and_not_run_twice(toy):
    path, log = toy
    runner.run_grid("tests.toy_experiment", path, **arguments())
    assert found(path) == expected(6, 2)
    first = path.read_text()
    row = json.loads(first)[0]
    assert set(row["versions"]) == {"python", "torch"} and row["scale"] == "smoke" and row["device"].startswith("CPU")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", row["date"]) and row["seconds"] >= 0
    assert [row["name"] for row in json.loads(first)] == sorted(row["name"] for row in json.loads(first))
    assert all(line.endswith("smoke") for line in log.read_text().splitlines())
    runner.run_grid("tests.toy_experiment", path, **arguments())
    assert path.read_text() == first and len(log.read_text().splitlines()) == 12
    runner.run_grid("tests.toy_experiment", path, **arguments(seeds=3))  # only the third seed is new
    assert found(path) == expected(6, 3) and len(log.read_text().splitlines()) == 18


def test_a_setting_may_ask_for_fewer_networks(toy, monkeypatch):
    from tests import toy_experiment

    settings = [dict(name=f"setting {i:02}", number=i) | ({"seeds": 1} if i else {}) for i in range(3)]
    monkeypatch.setattr(toy_experiment, "grid", lambda scale: settings)
    runner.run_grid("tests.toy_experiment", toy[0], **arguments(seeds=3))
    rows = json.loads(toy[0].read_text())
    assert [(row["number"], row["seed"]) for row in rows] == [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0)]


def test_a_killed_run_goes_on_where_it_was(toy, gate):
    path, log = toy
    let_pass(gate, 3)
    process = start(path)
    try:
        wait_for_rows(path, 3, process)
    finally:
        kill(process)
    before = found(path)
    assert before.total() == 3
    ran = len(log.read_text().splitlines())
    (gate / "open").touch()
    runner.run_grid("tests.toy_experiment", path, **arguments())
    assert found(path) == expected(6, 2)
    assert len(log.read_text().splitlines()) - ran == 9  # what was recorded did not run again


def test_a_scheduler_and_two_workers_one_of_which_is_killed(toy, gate):
    path, log = toy
    with dask_cluster(path.parent) as (address, workers):
        process = start(path, scheduler=address)
        try:
            wait_until(lambda: len(set(workers_of(log))) == 2, "a row in each worker", process)
            let_pass(gate, 3)
            wait_for_rows(path, 3, process)
            wait_until(lambda: len(workers_of(log)) == 5, "a row in each worker again", process)
            kill(workers[0])  # in the middle of a row, and the nanny that would start it again
            (gate / "open").touch()
            assert process.wait(timeout=240) == 0
        finally:
            kill(process)
    assert found(path) == expected(6, 2)
    # the row that was lost ran again, and of those recorded at most the last, which the worker may still have held
    assert len(workers_of(log)) in (13, 14)


def test_one_failing_setting_does_not_lose_the_others(toy, monkeypatch):
    path, _ = toy
    monkeypatch.setenv("TOY_FAILS", "2")
    with pytest.raises(RuntimeError, match="2 of 12 rows failed(.|\n)*setting 02, seed 0(.|\n)*a planted failure"):
        runner.run_grid("tests.toy_experiment", path, **arguments())
    assert found(path) == Counter({key: n for key, n in expected(6, 2).items() if key[0] != "setting 02"})


def test_two_runs_at_once_lose_no_row(toy, gate, monkeypatch):
    path, log = toy
    monkeypatch.setenv("TOY_SETTINGS", "10")
    processes = [start(path), start(path)]
    try:
        both = {process.pid for process in processes}
        wait_until(lambda: {os.getsid(worker) for worker in workers_of(log)} == both, "a row in each run", *processes)
        (gate / "open").touch()
        assert [process.wait(timeout=240) for process in processes] == [0, 0]
    finally:
        for process in processes:
            kill(process)
    assert found(path) == expected(10, 2)


@pytest.mark.parametrize("text", ["[{", '[{"name": "a"}]', '{"rows": 3}', ""])
def test_a_damaged_file_is_named_and_left(toy, text):
    path, _ = toy
    path.write_text(text)
    with pytest.raises(ValueError, match="rows.json is damaged.*git checkout"):
        runner.run_grid("tests.toy_experiment", path, **arguments())
    assert path.read_text() == text


def test_unknown_papers_and_seeds_are_refused(toy):
    with pytest.raises(ValueError, match="known are .*weight-pruning"):
        runner.reproduce("weight-watching")
    with pytest.raises(ValueError, match="seeds is 0"):
        runner.run_grid("tests.toy_experiment", toy[0], **arguments(seeds=0))


@pytest.fixture
def gpus(monkeypatch):
    """Makes torch find so many GPUs, for code that only asks how many there are."""

    def pretend(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)

    return pretend


def test_a_device_that_is_not_there_is_refused_before_any_worker_starts(toy, gpus, monkeypatch, capsys):
    from course_lib.__main__ import main

    monkeypatch.setattr(cluster, "client", lambda *_, **__: pytest.fail("starts workers"))
    gpus(0)
    with pytest.raises(ValueError, match="device is 'cuda'.*no CUDA device here; allowed are 'auto' and 'cpu'"):
        runner.run_grid("tests.toy_experiment", toy[0], **arguments(device="cuda"))
    with pytest.raises(ValueError, match="device is 'tpu'; allowed are 'auto', 'cpu', 'cuda'"):
        runner.run_grid("tests.toy_experiment", toy[0], **arguments(device="tpu"))
    monkeypatch.setattr(runner, "UNFINISHED", toy[0].parent)
    assert main(["reproduce", "weight-pruning", "--scale", "smoke", "--device", "cuda"]) == 2
    assert "error: device is 'cuda'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("found", "device", "workers", "threads"),
    [(0, "auto", 3, "1"), (0, "cpu", 3, "1"), (1, "cpu", 3, "1"), (1, "auto", 1, None), (2, "cuda", 2, None), (2, "cpu", 3, "1")],
)
def test_how_many_workers_a_machine_gets(gpus, monkeypatch, found, device, workers, threads):
    """One per GPU; one per core, with a thread each, where they compute on the CPU, also beside a GPU."""
    import dask.distributed

    seen = []

    class Cluster:
        def __init__(self, *_, n_workers=None, **__):
            if n_workers is not None:
                seen.append((n_workers, os.environ.get("OMP_NUM_THREADS")))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(cluster, "cores", lambda: 3)
    for name in ("LocalCluster", "Client"):
        monkeypatch.setattr(dask.distributed, name, Cluster)
    gpus(found)
    with cluster.client(None, device=device):
        assert seen == [(workers, threads)]
    assert "OMP_NUM_THREADS" not in os.environ


def test_which_device_a_worker_takes(gpus, monkeypatch):
    import dask.distributed

    monkeypatch.setattr(dask.distributed, "get_worker", lambda: SimpleNamespace(name=3))
    gpus(2)
    assert [runner._device(device) for device in ("auto", "cuda", "cpu")] == ["cuda:1", "cuda:1", "cpu"]
    monkeypatch.setattr(dask.distributed, "get_worker", lambda: SimpleNamespace(name="tcp://10.0.0.1:4000"))
    assert runner._device("cuda") == "cuda"
    gpus(0)
    assert runner._device("auto") == "cpu"
    with pytest.raises(ValueError, match="device is 'cuda'"):
        runner._device("cuda")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("device", ["auto", "cuda", "cpu"])
def test_cuda_a_row_says_the_device_that_it_ran_on(toy, device):
    runner.run_grid("tests.toy_experiment", toy[0], **arguments(device=device, seeds=1))
    names = {row["device"] for row in json.loads(toy[0].read_text())}
    gpus = {torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())}
    assert names == {"CPU, 1 thread"} if device == "cpu" else names <= gpus


def test_rows_of_stand_in_data_are_refused(toy, monkeypatch):
    """A row that says MNIST must be of MNIST: where only the stand-in is available, the row fails and says so."""
    monkeypatch.setenv("COURSE_OFFLINE", "1")
    monkeypatch.setenv("COURSE_DATA", str(toy[0].parent))
    with pytest.raises(RuntimeError, match="StandInWarning"):
        runner.run_grid("tests.stand_in_experiment", toy[0], **arguments(scale="lesson", seeds=1))
    assert not toy[0].exists()


def test_workers_of_this_machine_have_a_thread_each_and_keep_the_memory_that_they_free():
    with cluster.client(None, workers=1, device="cpu") as dask:
        [found] = dask.run(lambda: [os.environ.get(name) for name in ("OMP_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_")]).values()
    assert found == ["1", None]


def test_what_the_command_prints(monkeypatch, capsys, tmp_path, toy):
    committed = json.loads((runner.RESULTS / "weight_pruning.json").read_text())
    row = next(row for row in committed if row["name"] == "rate lenet-5 12 iterative" and row["seed"] == 3)
    monkeypatch.setattr(runner, "RESULTS", tmp_path)
    monkeypatch.setattr(runner, "UNFINISHED", tmp_path)
    with pytest.raises(FileNotFoundError, match="python -m course_lib reproduce weight-pruning"):
        runner.recorded("weight_pruning")
    monkeypatch.setattr("course_lib.experiments.weight_pruning.grid", lambda scale: [])
    (tmp_path / "weight_pruning.json").write_text(json.dumps([row | dict(scale="smoke", baseline=99.0, accuracy=98.0)]))
    assert runner.command("weight-pruning", scale="smoke", seeds=1, device="cpu", scheduler=None) == 0
    printed = capsys.readouterr().out
    assert "0.80 -> 0.77 %" in printed and "1.00 -> 2.00 %" in printed and "12.0x" in printed


@pytest.fixture
def places(monkeypatch, tmp_path):
    """Folders of whole and of unfinished runs, an experiment of two settings, and a grid that runs one row a call."""
    monkeypatch.setattr(runner, "RESULTS", tmp_path / "whole")
    monkeypatch.setattr(runner, "UNFINISHED", tmp_path / "unfinished")
    monkeypatch.setattr("course_lib.experiments.thinet.grid", lambda scale: [dict(name="a"), dict(name="b")])
    monkeypatch.setattr(runner.fingerprints, "fingerprint", lambda *_: "code")

    def run_one(module, path, *, scale, seeds, **_):
        done = {row_files.key_of(row) for row in row_files.read(path)}
        missing = [row for row in runner._wanted(module, scale, seeds) if row_files.key_of(row) not in done]
        row_files.add(path, *missing[:1])
        if missing[1:]:
            raise RuntimeError("broken off")

    monkeypatch.setattr(runner, "run_grid", run_one)
    return tmp_path / "whole" / "thinet.json", tmp_path / "unfinished" / "thinet.json"


def test_only_whole_runs_reach_the_committed_rows(places):
    whole, unfinished = places
    row_files.add(whole, old := dict(name="c", seed=0, scale="lesson", fingerprint="code"))
    with pytest.raises(RuntimeError, match="broken off"):
        runner.reproduce("thinet", scale="lesson", seeds=1)
    assert row_files.read(whole) == [old] and len(row_files.read(unfinished)) == 1
    assert len(runner.reproduce("thinet", scale="lesson", seeds=1)) == 3  # went on where it was
    assert [row["name"] for row in row_files.read(whole)] == ["a", "b", "c"]
    unfinished.unlink()
    runner.reproduce("thinet", scale="lesson", seeds=1)  # nothing is missing: what is committed is known


def test_rows_of_smoke_scale_stay_below_build(places):
    whole, unfinished = places
    for _ in range(2):
        with contextlib.suppress(RuntimeError):
            runner.reproduce("thinet", scale="smoke", seeds=1)
    assert len(runner.recorded("thinet", "smoke")) == 2 == len(row_files.read(unfinished)) and not whole.exists()


def test_recorded_rows_are_those_of_one_scale(places):
    whole, _ = places
    row_files.add(whole, *(dict(name="c", seed=seed, scale=scale) for seed, scale in enumerate(("lesson", "paper", "paper"))))
    assert [len(runner.recorded("thinet", *scale)) for scale in ((), ("paper",))] == [1, 2]
    with pytest.raises(FileNotFoundError, match="no recorded rows for thinet at smoke scale; .*--scale smoke"):
        runner.recorded("thinet", "smoke")


def test_the_overview_holds_every_paper_and_what_its_rows_say():
    assert set(runner.PAPERS) == set(runner.papers())
    table = runner.overview()
    assert list(table.columns) == ["paper", *runner.HEADLINE] and table.drop(columns=["low", "high"]).notna().all(axis=None)
    assert (table.rate > 1).all() and (table.networks >= 1).all()
    rows = runner.recorded("vector-quantization")
    line = table[table.paper.str.startswith("Gong 2014") & (table.network == "lenet-5")].iloc[0]
    chosen = rows[(rows.network == "lenet-5") & (rows.method == "product") & (rows.layers == "all coded")]
    chosen = chosen[(chosen.rate - line.rate).abs() < 1e-3]
    assert line.lost == pytest.approx((chosen.baseline - chosen.accuracy).mean())
    assert line.low < line.lost < line.high and line.networks == 5
    assert len(runner.overview("no such scale")) == 0
