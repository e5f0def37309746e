"""Where work is done: on the cores of this machine, its GPUs, or a Dask cluster that runs already."""

import contextlib
import os
from collections.abc import Iterator

DEVICES = ("auto", "cpu", "cuda")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resolve_device(wanted: str) -> str:
    """The kind of device that 'auto' stands for on this machine, or the one named.

    Raises:
        ValueError: an unknown kind, or 'cuda' where there is none.
    """
    if wanted not in DEVICES:
        raise ValueError(f"device is {wanted!r}; allowed are {', '.join(map(repr, DEVICES))}")
    if wanted == "cpu":
        return wanted

    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', and torch finds no CUDA device here; allowed are 'auto' and 'cpu'")
    return wanted if wanted != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


@contextlib.contextmanager
def client(scheduler: str | None, workers: int | None = None, device: str = "auto") -> Iterator:
    """A Dask client of the cluster at an address, or of processes of this machine.

    Args:
        scheduler: address of a running Dask scheduler; None for a cluster of this machine's processes.
        workers: how many processes; default one a GPU, or one a core where they compute on the CPU.
        device: what they compute on, 'auto', 'cpu' or 'cuda'.
    """
    import dask
    from dask.distributed import Client, LocalCluster

    if scheduler is not None:
        with Client(scheduler) as connected:
            yield connected
        return
    threads = {"OMP_NUM_THREADS": "1"}
    if workers is None and resolve_device(device) == "cuda":
        import torch

        workers, threads = torch.cuda.device_count(), {}
    # The workers are started by 'spawn' and read the variable when they import torch: one process per core, one thread each
    saved = {name: os.environ.get(name) for name in threads}
    os.environ.update(threads)
    # By default Dask's workers hand all memory that they free back to the system at once. Training frees every activation in
    # every step, and asking for the pages again took 35 to 45 % of its time
    memory = {"distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None}
    try:
        with (
            dask.config.set(memory),
            LocalCluster(
                n_workers=workers or cores(), threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=50
            ) as cluster,
            Client(cluster) as connected,
        ):
            yield connected
    finally:
        for name, value in saved.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
