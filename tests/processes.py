"""Processes that tests start, and kill."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


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
        start("scheduler", "--port", "0")
        workers = [start("worker", "--nthreads", "1") for _ in range(2)]
        deadline = time.monotonic() + 60
        while not address_file.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        address = json.loads(address_file.read_text())["address"]
        with Client(address) as client:
            client.wait_for_workers(2, timeout=60)
        yield address, workers
    finally:
        for process in processes:
            kill(process)
