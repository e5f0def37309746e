"""Processes that tests start, and kill."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def wait_until(happened: Callable[[], object], what: str, *processes: subprocess.Popen, seconds: float = 120):
    """Waits for an event, and gives what `happened` says of it; fails early when one of the processes ends before."""
    deadline = time.monotonic() + seconds
    while not (found := happened()):
        ended = [process.args for process in processes if process.poll() is not None]
        assert not ended or happened(), f"{ended} ended before {what}"
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.01)
    return found


def kill(process: subprocess.Popen) -> None:
    """Ends a process that was started in a session of its own, and everything that it started."""
    with contextlib.suppress(ProcessLookupError):  # it may be over, and its children not
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def dask_cluster(folder: Path) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """The address of a scheduler, and its two workers, which are started as on machines of their own."""
    from dask.distributed import Client

    address_file = folder / "scheduler.json"
    common = ["--host", "127.0.0.1", "--scheduler-file", str(address_file), "--no-dashboard"]

    def start(role: str, *options: str) -> subprocess.Popen:
        command = [sys.executable, "-m", f"distributed.cli.dask_{role}", *common, *options]
        quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        processes.append(subprocess.Popen(command, cwd=ROOT, start_new_session=True, **quiet))
        return processes[-1]

    processes: list[subprocess.Popen] = []
    try:
        scheduler = start("scheduler", "--port", "0")
        workers = [start("worker", "--nthreads", "1") for _ in range(2)]
        # it is there before it is written to its end
        wait_until(lambda: address_file.exists() and address_file.read_text().rstrip().endswith("}"), "an address", scheduler)
        address = json.loads(address_file.read_text())["address"]
        with Client(address, timeout=120) as client:
            client.wait_for_workers(2, timeout=120)
        yield address, workers
    finally:
        for process in processes:
            kill(process)
