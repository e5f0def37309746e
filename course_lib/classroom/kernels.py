"""A Jupyter kernel in a sandbox, driven by nbclient, from which nothing comes back without a bound."""

import asyncio
import contextlib
import math
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL

import nbformat
import psutil
import zmq
import zmq.asyncio
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from course_lib.classroom import sandbox
from course_lib.classroom.sandbox import Limits

LARGEST_MESSAGE = 32 << 20  # bytes; a larger one, and the connection that it came over, are dropped unread
QUEUE = 64  # messages that wait at most
PATIENCE = 6  # seconds that a kernel has for what takes none
STARTUP = 120  # seconds until a kernel must be ready
NEVER = 2**31 - 1  # milliseconds; -1 stands for it too, but then it takes a second to close the sockets
SOCKETS = "/tmp/kernel"  # how the names of the kernel's sockets begin, in its sandbox
LATE = dict(ename="CellTimeoutError", evalue="the cell took too long", traceback=["CellTimeoutError: the cell took too long"])
CUT_OFF = nbformat.v4.new_output("stream", name="stdout", text="\n[the rest of the output was cut off]\n")


class _Specs(KernelSpecManager):
    """One kernel spec: ipykernel, within a sandbox or without."""

    argv: list[str] = []

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        return KernelSpec(argv=self.argv, interrupt_mode="message", language="python", display_name="Python 3, for grading")


class _Manager(AsyncKernelManager):
    """Finds the kernel's sockets, which lie within the sandbox, through the file system of a process there."""

    sandboxed = True

    def client(self, **options):
        """A client whose sockets have the limits of this manager's context; by itself it would make a context of its own."""
        return super().client(context=self.context, **options)

    async def _async_launch_kernel(self, kernel_cmd: list[str], **options) -> None:
        await super()._async_launch_kernel(kernel_cmd, **options)
        self._deadline = time.monotonic() + STARTUP
        if self.sandboxed:
            self.ip = f"/proc/{await self._first_process()}/root{SOCKETS}"
        for port in (self.shell_port, self.iopub_port, self.stdin_port, self.control_port):
            await self._listening(f"{self.ip}-{port}")

    async def _first_process(self) -> int:
        while self._starting():
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in psutil.Process(self.provisioner.pid).children():
                    if os.path.exists(f"/proc/{child.pid}/root{sandbox.HOME}"):  # its file system is laid
                        return child.pid
            await asyncio.sleep(0.02)
        raise RuntimeError("the sandbox of a kernel did not start")

    async def _listening(self, path: str) -> None:
        """Waits until the kernel takes connections: ours are made once and never again (`NEVER`)."""
        while self._starting():
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(path)
                return
            await asyncio.sleep(0.02)
        raise RuntimeError("a kernel did not start")

    def _starting(self) -> bool:
        alive = self.provisioner.process is not None and self.provisioner.process.poll() is None
        return alive and time.monotonic() < self._deadline


class _Client(NotebookClient):
    """Keeps at most `limit` bytes of a cell's output, 16 times that of all cells; a cell that goes on is interrupted."""

    limit = 1 << 20
    kept = total = 0
    late = interrupted = False
    reply: dict | None = None  # what the kernel said of the cell, outside its outputs

    async def async_start_new_kernel_client(self):
        """Connects without a heartbeat: its thread can wait for ever, and a dead kernel is noticed by its process."""
        self.kc = self.km.client()
        self.kc.start_channels(hb=False)
        await self.kc.wait_for_ready(timeout=self.startup_timeout)
        self.kc.allow_stdin = False
        return self.kc

    def _keep_reply(self, cell: NotebookNode, cell_index: int, execute_reply: dict) -> None:
        self.reply = execute_reply["content"]

    async def _async_handle_timeout(self, timeout: int, cell: NotebookNode | None = None) -> dict | None:
        self.late = True
        return await super()._async_handle_timeout(timeout, cell)

    def process_message(self, message: dict, cell: NotebookNode, cell_index: int) -> NotebookNode | None:
        if message["msg_type"].startswith("comm"):
            return None  # widgets: their state would be kept for ever
        if message["msg_type"] != "status":
            size = len(str(message["content"]))
            if self.kept < self.limit <= self.kept + size:
                cell.outputs.append(CUT_OFF)
            elif self.kept >= self.limit and not self.interrupted:  # not at once: this may be the error that ends the cell,
                self.interrupted = True  # and an interrupt could keep the kernel from sending its reply
                asyncio.ensure_future(self.km.interrupt_kernel())
            self.kept += size
            self.total += size
            if self.kept >= self.limit or self.total >= 16 * self.limit:
                return None
        return super().process_message(message, cell, cell_index)


@dataclass(frozen=True)
class Ran:
    """A cell that was run, and whether the kernel itself said that it ran to its end without an exception.

    Outputs are no proof: a kernel may fail to send an error, and one too large is dropped here.
    """

    cell: NotebookNode
    ok: bool

    @property
    def error(self) -> NotebookNode | None:
        """The first error output, if there is one."""
        return next((out for out in self.cell.outputs if out.output_type == "error"), None)

    @property
    def timed_out(self) -> bool:
        """Whether it was ended because it took too long."""
        return any(out.output_type == "error" and out.ename == LATE["ename"] for out in self.cell.outputs)


class Kernel:
    """A running kernel; made by `start`.

    `fault` is None, or why it was killed: 'memory', 'time', 'output', 'noise' (what came was no message), or that it 'died'.
    """

    def __init__(self, client: _Client, limits: Limits):
        self.client, self.limits = client, limits
        self.fault: str | None = None

    async def run(self, source: str, seconds: float | None = None) -> Ran:
        """Runs a cell; it ends with an error output where it took too long.

        Raises:
            DeadKernelError: the kernel is gone; `fault` says why.
        """
        if self.fault:
            raise DeadKernelError(self.fault)
        client, cell = self.client, nbformat.v4.new_code_cell(source)
        client.timeout = math.ceil(seconds or self.limits.cell_seconds)  # nbclient wants whole seconds
        client.kept, client.reply = 0, None
        client.late = client.interrupted = False
        client.nb.cells[:] = [cell]
        client.reset_execution_trackers()
        try:
            await client.async_execute_cell(cell, 0)
        except DeadKernelError:
            self.fault = self.fault or "died"
            raise
        except CellTimeoutError as reason:  # its end was not announced
            if not client.late:  # a message was too large, and the connection was dropped with it
                await self.kill("output")
                raise DeadKernelError(f"{reason!r}") from reason
        except Exception as reason:  # a student's code can write into the kernel's sockets
            await self.kill("noise")
            raise DeadKernelError(f"{reason!r}") from reason
        if client.late:
            cell.outputs.append(nbformat.v4.new_output("error", **LATE))
            if not await self._answers():
                await self.kill("time")
        said = client.reply or {}
        return Ran(cell, not client.late and said.get("status") == "ok" and type(said.get("execution_count")) is int)

    async def kill(self, fault: str) -> None:
        """Ends the kernel and everything in its sandbox."""
        self.fault = self.fault or fault
        with contextlib.suppress(TimeoutError):
            await self.client.km.provisioner.kill()
            await asyncio.wait_for(self.client.km.provisioner.wait(), PATIENCE)

    async def interrupt(self) -> None:
        """Raises KeyboardInterrupt in what runs."""
        await self.client.km.interrupt_kernel()

    async def _answers(self, seconds: float = PATIENCE) -> bool:
        """Whether the kernel is free again after an interrupt."""
        number = self.client.kc.kernel_info()
        try:
            return await asyncio.wait_for(self.client.async_wait_for_reply(number), seconds) is not None
        except (TimeoutError, DeadKernelError):
            return False

    async def watch(self, interval: float = 0.25) -> None:
        """Kills the kernel when its processes together take more memory than allowed."""
        outside = psutil.Process(self.client.km.provisioner.pid)
        with contextlib.suppress(psutil.NoSuchProcess):
            while self.fault is None:
                used = 0
                for process in [outside, *outside.children(recursive=True)]:
                    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                        used += process.memory_info().rss
                if used > self.limits.memory:
                    await self.kill("memory")
                await asyncio.sleep(interval)


def _context() -> zmq.asyncio.Context:
    """Sockets of limited memory and patience."""
    context = zmq.asyncio.Context()
    context.setsockopt(zmq.MAXMSGSIZE, LARGEST_MESSAGE)
    context.setsockopt(zmq.RCVHWM, QUEUE)
    context.setsockopt(zmq.SNDHWM, QUEUE)
    context.setsockopt(zmq.SNDTIMEO, 1000 * PATIENCE)  # else a message to a kernel that is gone waits for ever
    context.setsockopt(zmq.RECONNECT_IVL, NEVER)  # a socket's name may lead elsewhere once a student's code has run
    context.setsockopt(zmq.LINGER, 0)
    return context


def _client(folder: Path, context: zmq.asyncio.Context, limits: Limits, sandboxed: bool) -> "_Client":
    """What talks to a kernel that is not started yet; its connection file and sockets lie in `folder`."""
    connection = folder / "c.json"
    launcher = [sys.executable, "-m", "ipykernel_launcher", "-f", str(connection)]
    argv = [*launcher, "--HistoryManager.enabled=False", "--log-level=CRITICAL"]
    specs = _Specs()
    specs.argv = sandbox.command(argv, limits, show=(str(folder),)) if sandboxed else argv
    manager = _Manager(kernel_name="grading", kernel_spec_manager=specs, transport="ipc", context=context)
    manager.sandboxed, manager.connection_file = sandboxed, str(connection)
    manager.ip = SOCKETS if sandboxed else str(folder / "s")
    client = _Client(nbformat.v4.new_notebook(), km=manager, resources={"metadata": {"path": str(folder)}})
    client.limit, client.allow_errors, client.interrupt_on_timeout = limits.output, True, True
    client.error_on_timeout, client.on_cell_executed = LATE, client._keep_reply
    client.raise_on_iopub_timeout, client.iopub_timeout = True, round(max(PATIENCE, limits.cell_seconds))
    client.startup_timeout, client.record_timing = STARTUP, False
    client.log.disabled = True
    manager.write_connection_file()
    if sandboxed:  # for the sandbox's user; who else reads it cannot reach the sockets
        folder.chmod(0o755), connection.chmod(0o644)
    return client


@contextlib.asynccontextmanager
async def start(limits: Limits, *, sandboxed: bool = True, pass_fds: tuple[int, ...] = ()) -> AsyncIterator[Kernel]:
    """A kernel that is ready, and gone when the block ends.

    Args:
        limits: what it may use; without a sandbox only time and output are limited.
        sandboxed: run it in a sandbox.
        pass_fds: descriptors that it inherits.
    """
    folder = Path(tempfile.mkdtemp(prefix="k"))
    context = _context()
    client = _client(folder, context, limits, sandboxed)
    try:
        await client.async_start_new_kernel(stdout=DEVNULL, stderr=DEVNULL, pass_fds=pass_fds, cwd=str(folder))
        await client.async_start_new_kernel_client()
        kernel = Kernel(client, limits)
        watcher = asyncio.create_task(kernel.watch())
        try:
            yield kernel
        finally:
            watcher.cancel()
            await kernel.kill("ended")
    finally:
        with contextlib.suppress(Exception):  # what a submission left behind must not keep the next one from being graded
            await client._async_cleanup_kernel()
        context.destroy(linger=0)
        shutil.rmtree(folder, ignore_errors=True)
