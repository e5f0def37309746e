"""One submission, run and judged in two sandboxed kernels.

The first kernel runs the student's cells. The second holds the instructor's set-up and runs the tests, against stand-ins for
the answers (`answers`). Nothing that a student writes runs beside a test: it cannot read it, nor its figures, nor change what
it stands on.
"""

import asyncio
import contextlib
import json
import re
import socket
import time

import nbformat
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode

from course_lib.classroom import canaries, cells, kernels, sandbox
from course_lib.classroom.kernels import PATIENCE, Kernel, Ran
from course_lib.classroom.outcome import Outcome, Watch
from course_lib.classroom.sandbox import Limits

SERVE = "import course_lib.classroom.answers as _serving\n_serving.serve({descriptor}, globals())"
JUDGE = """\
import json as _json
from course_lib.classroom.answers import Answers as _Answers

_answers = _Answers({descriptor}, {seconds})
_answers.remember(globals())
"""


NOT_RUN = dict(ename="NotRun", evalue="this test was not run", traceback=["NotRun: this test was not run"])
NO_PROOF = dict(ename="NotPassed", evalue="this test did not run to its end", traceback=["NotPassed: it did not run to its end"])


def examine(
    master: NotebookNode,
    merged: NotebookNode,
    *,
    limits: Limits,
    sandboxed: bool = True,
    everything: bool = False,
    watch: Watch | None = None,
) -> Outcome:
    """Runs a submission and fills in its outputs; whatever it does, an outcome comes back.

    Args:
        master: the instructor's notebook.
        merged: the submission, as `cells.merge` gives it; it is changed in place.
        limits: what it may use.
        sandboxed: use bubblewrap.
        everything: run the lesson's cells too, also those that no answer needs.
        watch: what to do after each test.

    Raises:
        RuntimeError: the sandbox cannot be made here, or the instructor's own set-up fails.
    """
    if sandboxed:
        sandbox.check()
    started, outcome = time.perf_counter(), Outcome(merged, watch=watch)
    for cell in filter(cells.is_test, merged.cells):  # failed until there is proof of the contrary
        outcome.unmarked.append(cells.grade_id(cell))
        cell.outputs = [nbformat.v4.new_output("error", **NOT_RUN)]
    asyncio.run(_within(limits.seconds, _examine(master, outcome, limits, sandboxed, everything), outcome))
    if outcome.status == "graded" and not outcome.scored:
        outcome.flag(
            "flagged", f"no mark for {', '.join(outcome.unmarked)}" if outcome.unmarked else "not checked after the tests"
        )
    outcome.seconds = time.perf_counter() - started
    return outcome


async def _within(seconds: float, work, outcome: Outcome) -> None:
    """Runs `work` for at most so long; taking it down has a limit too, since it may be what hangs."""
    task = asyncio.create_task(work)
    done, _ = await asyncio.wait([task], timeout=seconds)
    if done:
        task.result()
        return
    outcome.close("timed out", f"not done after {seconds:g} s")
    task.cancel()
    await asyncio.wait([task], timeout=2 * PATIENCE)


async def _examine(master: NotebookNode, outcome: Outcome, limits: Limits, sandboxed: bool, everything: bool) -> None:
    here, there = socket.socketpair()
    try:
        async with contextlib.AsyncExitStack() as stack:
            starts = [kernels.start(limits, pass_fds=(end.fileno(),), sandboxed=sandboxed) for end in (here, there)]
            student, judge = await asyncio.gather(*map(stack.enter_async_context, starts))
            descriptors = here.fileno(), there.fileno()
            here.close(), there.close()  # each kernel holds the only copy of its end, so it sees the other's death
            session = _Session(master, outcome, limits, student, judge, *descriptors)
            await session.run(cells.wanted(master, outcome.notebook, everything))
    finally:
        here.close(), there.close()


class _Session:
    """Two kernels and the notebook between them."""

    def __init__(
        self, master: NotebookNode, outcome: Outcome, limits: Limits, student: Kernel, judge: Kernel, serves: int, asks: int
    ):
        self.master, self.outcome, self.limits = master, outcome, limits
        self.student, self.judge, self.serves, self.asks = student, judge, serves, asks
        self.answers = cells.answer_names(master)

    async def run(self, places: list[int]) -> None:
        """Runs the student's cells at `places` and the tests, in the notebook's order."""
        ready = asyncio.create_task(self._prepare_judge())
        try:
            tests = [i for i, cell in enumerate(self.outcome.notebook.cells) if cells.is_test(cell)]
            for i in sorted([*places, *tests]):
                cell = self.outcome.notebook.cells[i]
                if i in tests:
                    await ready
                    await (self._first_test(cell) if i == tests[0] else self._test(cell))
                else:
                    await self._answer(cell)
            await ready
            await self._check_kernels("after the tests")
            await self._compare_libraries()
            self.outcome.checked = True
        except DeadKernelError as death:
            if self.judge.fault:
                self.outcome.flag("crashed", f"the kernel of the tests was lost ({self.judge.fault})")
            else:
                self._lost(death)
        finally:
            ready.cancel()

    def _lost(self, death: DeadKernelError) -> None:
        """The kernel of the answers is gone."""
        why = {
            "died": ("crashed", "its kernel died"),
            "memory": ("crashed", f"it used more than {self.limits.memory >> 20} MiB of memory"),
            "time": ("timed out", "it could not be interrupted"),
            "output": ("crashed", "it printed more at once than can be taken"),
            "noise": ("crashed", f"its kernel sent what is no message ({_plain(str(death))})"),
        }
        self.outcome.flag(*why[self.student.fault])

    async def _prepare_judge(self) -> None:
        for cell in self.master.cells:
            if cells.is_setup(cell):
                ran = await self.judge.run(cell.source, self.limits.seconds)
                if not ran.ok:
                    what = f"{ran.error.ename}: {ran.error.evalue}" if ran.error else "it did not run to its end"
                    raise RuntimeError(f"the notebook's own set-up fails: {what}")
        await self._ask(JUDGE.format(descriptor=self.asks, seconds=self.limits.cell_seconds))

    async def _answer(self, cell: NotebookNode) -> None:
        """Runs one of the student's cells."""
        ran = await self.student.run(cell.source, self.limits.seconds if cells.is_setup(cell) else None)
        cell.outputs, cell.execution_count = ran.cell.outputs, ran.cell.execution_count
        if ran.timed_out:
            self.outcome.flag("timed out", f"{_name(cell)} ran longer than {self.limits.cell_seconds:g} s")
        elif ran.error and ran.error.ename != "NotImplementedError":
            self.outcome.flag("graded", f"{_name(cell)} ended in {_plain(f'{ran.error.ename}: {ran.error.evalue}')}")
        if kernels.CUT_OFF in ran.cell.outputs:
            self.outcome.flag("graded", f"{_name(cell)} printed more than {self.limits.output >> 10} KiB, and was cut off")

    async def _first_test(self, cell: NotebookNode) -> None:
        await self._check_kernels("before the tests")
        await self._test(cell)

    async def _test(self, cell: NotebookNode) -> None:
        """Runs a test in the kernel of the tests, while that of the answers takes its calls."""
        async with _Serving(self, f"in {_name(cell)} an answer"):
            bound = await self.judge.run(f"_answers.bind(globals(), {self.answers!r})")
            ran = await self.judge.run(cell.source, self.limits.cell_seconds + 10) if bound.ok else bound
            if bound.ok and not ran.ok and self.outcome.watch:
                await self.judge.run(f"_answers.bind(globals(), {self.answers!r})")  # a test may have rebound them; a new limit
                self.outcome.watch.told[cells.grade_id(cell)] = await self._ask(self.outcome.watch.explain(cell))
        if self.outcome.watch:
            self.outcome.watch.tested()
        cell.outputs, cell.execution_count = _proven(ran), ran.cell.execution_count
        self.outcome.unmarked.remove(cells.grade_id(cell))

    async def _compare_libraries(self) -> None:
        """Flags functions that the submission has changed, and notes names of the set-up that it has given other meanings."""
        async with _Serving(self, "the check of the libraries"):
            found = await self._ask("print(_json.dumps(_answers.differences()))")
        differences = json.loads(found) if found else ["(no answer)"]
        rebound = [name.partition(":")[2] for name in differences if name.startswith("__main__:")]
        patched = [name.replace(":", ".") for name in differences if not name.startswith("__main__:")]
        if patched:
            self.outcome.flag("flagged", f"changed code that tests stand on: {', '.join(patched[:8])}")
        if rebound := [name for name in rebound if name not in self.answers]:
            self.outcome.flag("graded", f"gave names of the set-up another meaning: {', '.join(rebound[:8])}")

    async def _check_kernels(self, when: str) -> None:
        for kernel, owner in ((self.student, "its kernel"), (self.judge, "the kernel of the tests")):
            if lived := await canaries.survivors(kernel):
                self.outcome.flag("flagged", f"failures are hidden in {owner} {when}: {', '.join(lived)}")

    async def _ask(self, source: str) -> str:
        """Runs a cell of ours in the kernel of the tests; gives what it printed."""
        ran = await self.judge.run(source, self.limits.seconds)
        return "".join(out.text for out in ran.cell.outputs if out.output_type == "stream" and out.name == "stdout")


class _Serving:
    """While the block runs, the kernel of the answers takes calls; one that does not come back is interrupted."""

    def __init__(self, session: _Session, what: str):
        self.session, self.what = session, what

    async def __aenter__(self) -> None:
        limits, source = self.session.limits, SERVE.format(descriptor=self.session.serves)
        self.started = time.monotonic()
        self.task = asyncio.create_task(self.session.student.run(source, 3 * limits.cell_seconds + 60))

    async def __aexit__(self, *error) -> None:
        session = self.session
        try:
            if error == (None, None, None):
                await session.judge.run("_answers.done()")
                stuck = time.monotonic() - self.started >= session.limits.cell_seconds
                if not await self._ended(PATIENCE / 3 if stuck else 3 * PATIENCE):
                    session.outcome.flag("timed out", f"{self.what} ran longer than {session.limits.cell_seconds:g} s")
                    await session.student.interrupt()
                    if not await self._ended(PATIENCE):
                        await session.student.kill("time")
                await self.task
        finally:
            self.task.cancel()
            with contextlib.suppress(asyncio.CancelledError, DeadKernelError):
                await self.task

    async def _ended(self, seconds: float) -> bool:
        return bool((await asyncio.wait([self.task], timeout=seconds))[0])


def _proven(ran: Ran) -> list[NotebookNode]:
    """The outputs of a test, with an error among them unless the kernel's reply proves that it ran to its end.

    nbgrader reads the outputs alone: it takes what a cell gives for a share of the points, and a line on stderr, which a
    mere warning writes, for a failure. So neither is left as it is.
    """
    outputs = [out for out in ran.cell.outputs if out.output_type != "execute_result"]
    for out in outputs:
        if out.output_type == "stream":
            out.name = "stdout"
    if not ran.ok and ran.error is None:
        outputs.append(nbformat.v4.new_output("error", **NO_PROOF))
    return outputs


def _name(cell: NotebookNode) -> str:
    return cells.grade_id(cell) or f"the cell {cell.source.strip().splitlines()[0][:40]!r}"


def _plain(text: str) -> str:
    """A student's text for a terminal and a table: a line of printable characters."""
    return re.sub(r"[^\x20-\x7e]+", " ", text)[:100].strip()
