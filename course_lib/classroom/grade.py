"""A class's submissions, graded: a process for each, one record a submission, the tables and pages, the summary."""

import contextlib
import copy
import dataclasses
import hashlib
import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, ThreadPoolExecutor, wait
from pathlib import Path

import nbformat
import pandas as pd
from nbformat import NotebookNode
from tqdm.auto import tqdm

import course_lib
from course_lib import cluster
from course_lib.classroom import apart, sandbox
from course_lib.classroom.collect import Submission, collect
from course_lib.classroom.gradebook import Course, load
from course_lib.classroom.marks import Roster, export
from course_lib.classroom.sandbox import NOTEBOOKS, Limits
from course_lib.classroom.text import printable, spreadsheet
from course_lib.files import replacing

STATUSES = ("graded", "timed out", "crashed", "flagged", "unreadable", "missing", "not done")
WARNING = "NO SANDBOX: student code ran with all rights of this account"


@dataclasses.dataclass(frozen=True)
class Settings:
    """How submissions are graded; another setting grades again."""

    limits: Limits = dataclasses.field(default_factory=Limits)
    sandboxed: bool = True
    everything: bool = False
    scale: str = "smoke"


def command(submissions: Path, out: Path, *, settings: Settings = Settings(), roster: Roster | None = None, **how) -> int:
    """`grade`, its summary, printed, and the marks for a roster; gives the exit status, 1 where something is not done.

    Raises:
        ValueError: as `grade` and `export` do.
    """
    table = grade(submissions, out, settings=settings, **how)
    encoding = sys.stdout.encoding or "utf-8"  # a terminal need not know every letter of a name
    print(summary(table, settings, out).encode(encoding, "backslashreplace").decode(encoding))
    if roster:
        print(export(roster, table.to_dict("records"), out))
    return int((table.status == "not done").any())


def grade(
    submissions: Path,
    out: Path,
    *,
    only: str | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    settings: Settings = Settings(),
    notebooks: Path = NOTEBOOKS,
    progress: bool = True,
) -> pd.DataFrame:
    """Grades what has not been graded yet; gives the table that is also in `out`/grades.csv, one line a student and notebook.

    Args:
        submissions: a folder or zip file; see `collect`.
        out: the folder of records, gradebook, pages and table.
        only: grade the notebook whose name begins so.
        workers: processes; default one a core.
        scheduler: address of a Dask scheduler, whose workers have this course and bubblewrap; default processes of this machine.
        settings: limits, sandbox, scale.
        notebooks: the folder of the instructor's notebooks.
        progress: show a bar.

    Raises:
        RuntimeError: there is no bubblewrap, and `settings` do not forgo it.
        ValueError: nothing is there to grade, or no such notebook.
    """
    if settings.sandboxed and scheduler is None:
        sandbox.check()
    masters = load(notebooks, only)
    handed_in = collect(submissions, masters)
    if not handed_in:
        raise ValueError(f"no notebook and no zip file is in {submissions}")
    course = Course(out)
    work = _Work(course, {unit: masters[unit] for unit in masters if any(s.unit == unit for s in handed_in)}, settings)
    work.assign()
    todo = [one for one in handed_in if not work.is_done(one)]
    with tqdm(total=len(handed_in), initial=len(handed_in) - len(todo), unit="notebook", disable=not progress) as bar:
        for one in todo:
            if one.problem:
                work.refuse(one)
                bar.update()
        work.run([one for one in todo if not one.problem], bar, workers, scheduler)
    table = work.table(handed_in)
    with replacing(out / "grades.csv") as scratch:
        _spreadsheet(table).to_csv(scratch, index=False)
    return table


class _Work:
    """The submissions of a class, their records and what is made from them."""

    def __init__(self, course: Course, masters: dict[str, NotebookNode], settings: Settings):
        self.course, self.masters, self.settings = course, masters, settings
        self.bare = {unit: _without_outputs(master) for unit, master in masters.items()}
        self.failures: dict[tuple[str, str], str] = {}

    def assign(self) -> None:
        """Tells the gradebook of each notebook whose source has changed."""
        for unit, master in self.masters.items():
            stamp, now = self.course.root / "source" / unit / ".stamp", _hash(json.dumps(master))
            if not stamp.exists() or stamp.read_text(encoding="utf-8") != now:
                self.course.assign(unit, master)
                with replacing(stamp) as scratch:
                    scratch.write_text(now, encoding="utf-8")

    def is_done(self, one: Submission) -> bool:
        """Whether a record is there of this very submission, graded in this very way."""
        return (record := self._record(one)) is not None and record["key"] == self._key(one)

    def _key(self, one: Submission) -> str:
        master = json.dumps(self.masters[one.unit]) if one.unit in self.masters else ""
        settings = json.dumps(dataclasses.asdict(self.settings))
        return _hash(one.digest, one.problem or "", master, settings, course_lib.__version__)

    def refuse(self, one: Submission) -> None:
        """Records what cannot be graded."""
        self._write(one, dict(status="unreadable", reasons=[one.problem], seconds=0.0, scored=False, page=None))

    def run(self, todo: list[Submission], bar: tqdm, workers: int | None, scheduler: str | None) -> None:
        """Grades each; it is recorded when it is done, and what fails is left for the next call."""
        queue, futures = iter(todo), {}
        with _executor(workers, scheduler) as (executor, ahead):
            try:
                while (batch := list(itertools.islice(queue, ahead - len(futures)))) or futures:
                    for one in batch:  # those behind them are not read yet
                        with self._noting_failure(one, bar):
                            futures[executor.submit(apart.run, self._job(one))] = one
                    for future in wait(futures, return_when=FIRST_COMPLETED).done:
                        one = futures.pop(future)
                        with self._noting_failure(one, bar):
                            self._finish(one, json.loads(future.result()))
                            bar.update()
            except KeyboardInterrupt:
                for future in futures:
                    future.cancel()
                apart.end_all()
                raise

    @contextlib.contextmanager
    def _noting_failure(self, one: Submission, bar: tqdm) -> Iterator[None]:
        """What fails is a worker's fault, nbgrader's, or that a file is another than it was: the class goes on."""
        bar.set_postfix_str(one.student)
        try:
            yield
        except Exception as reason:
            self.failures[one.student, one.unit] = f"not done: {reason!r}"[:300]
            bar.update()

    def _job(self, one: Submission) -> str:
        given = dict(master=self.bare[one.unit], submission=one.notebook())
        return json.dumps(given | dataclasses.asdict(self.settings))

    def _finish(self, one: Submission, outcome: dict) -> None:
        """Gradebook and page first, the record last: with it the submission is done."""
        record = {name: outcome[name] for name in ("status", "reasons", "seconds", "scored")}
        if outcome["notebook"] is None:  # it was not even laid out, so there is nothing to mark
            self._write(one, record | dict(page=None))
            return
        self.course.save(one.unit, one.student, nbformat.from_dict(outcome["notebook"]), scored=outcome["scored"])
        self.course.feedback(one.unit, one.student)
        detail = self.course.marks(one.unit, one.student).detail
        self._write(one, record | dict(changed=outcome["changes"], page=detail))

    def table(self, handed_in: list[Submission]) -> pd.DataFrame:
        """One line a student and notebook; brings pages in step with marks that a person has given since."""
        rows = [self._row(one) for one in handed_in]
        there = {(one.student, one.unit) for one in handed_in}
        students = sorted({one.student for one in handed_in})
        for unit in self.masters:
            best = max((row["max_score"] for row in rows if row["notebook"] == unit), default=0.0)
            rows += [_line(student, unit, "missing", 0.0, best, 0.0, []) for student in students if (student, unit) not in there]
        return pd.DataFrame(rows).sort_values(["notebook", "student"], ignore_index=True)

    def _row(self, one: Submission) -> dict:
        record = self._record(one)
        if (one.student, one.unit) in self.failures or record is None:
            reason = self.failures.get((one.student, one.unit), "not done")
            return _line(one.student, one.unit, "not done", None, 0.0, 0.0, [reason])
        marks = None if record["page"] is None else self.course.marks(one.unit, one.student)
        if marks and marks.detail != record["page"]:
            self.course.feedback(one.unit, one.student)
            self._write(one, {**record, "page": marks.detail})
        counts = marks and (record["scored"] or marks.open == 0)  # not scored: when a person has given every mark
        changed = [f"changed test cells: {', '.join(record['changed'])}"] if record.get("changed") else []
        return _line(
            one.student, one.unit, record["status"], marks.score if counts else None, marks.best if marks else 0.0,
            marks.open if marks else 0.0, [*record["reasons"], *changed], record["seconds"],
        )  # fmt: skip

    def _path(self, one: Submission) -> Path:
        return self.course.root / "records" / one.unit.replace("?", "unknown") / f"{one.student}.json"

    def _record(self, one: Submission) -> dict | None:
        with contextlib.suppress(OSError, ValueError):
            return json.loads(self._path(one).read_text(encoding="utf-8"))
        return None

    def _write(self, one: Submission, record: dict) -> None:
        content = json.dumps({**record, "key": self._key(one)})
        with replacing(self._path(one)) as scratch:
            scratch.write_text(content, encoding="utf-8")


@contextlib.contextmanager
def _executor(workers: int | None, scheduler: str | None) -> Iterator[tuple[Executor, int]]:
    """Where `apart.run` is called: threads of this process, which only wait for it, or a cluster; and how many calls to queue."""
    if scheduler is None:
        workers = workers or cluster.cores()
        with ThreadPoolExecutor(workers) as threads:
            yield threads, 2 * workers
        return
    with cluster.client(scheduler) as client:
        yield client.get_executor(pure=False, retries=0), 2 * max(1, sum(client.nthreads().values()))


def _without_outputs(master: NotebookNode) -> NotebookNode:
    """The notebook as far as grading needs it; its figures would travel with every submission."""
    bare = copy.deepcopy(master)
    for cell in bare.cells:
        cell.pop("attachments", None)
        if cell.cell_type == "code":
            cell.outputs = []
    return bare


def _hash(*parts: str | bytes) -> str:
    parts = [part if isinstance(part, bytes) else part.encode() for part in parts]
    return hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def _line(student, notebook, status, score, best, waiting, reasons, seconds=0.0) -> dict:
    return dict(
        student=student, notebook=notebook, status=status, score=score, max_score=best, by_hand=waiting,
        reasons=printable("; ".join(reasons), 2_000), seconds=round(seconds, 1),
    )  # fmt: skip


def _spreadsheet(table: pd.DataFrame) -> pd.DataFrame:
    """A copy whose texts no spreadsheet takes for formulas; numbers stay numbers."""
    return table.assign(**{name: table[name].map(spreadsheet) for name in ("student", "notebook", "status", "reasons")})


def summary(table: pd.DataFrame, settings: Settings, out: Path) -> str:
    """What an instructor has to know: how many of each status, each case that needs eyes, and where things are."""
    counts, changed = Counter(table.status), table.reasons.str.contains("changed test cells")
    lines = [f"{status:>18}: {counts[status]}" for status in STATUSES if counts[status] or status in STATUSES[:4]]
    lines.append(f"{'changed test cells':>18}: {changed.sum()}")
    for row in table[(table.reasons != "") | ~table.status.isin(["graded", "missing"])].itertuples():
        lines.append(f"  {row.notebook}  {row.student}  {row.status}: {row.reasons}")
    waiting = table[table.by_hand > 0]
    if len(waiting):
        lines.append(f"{waiting.by_hand.sum():g} points in {len(waiting)} notebooks wait for a person")
    lines += [f"marks: {out / 'grades.csv'}", f"pages for students: {out / 'feedback'}"]
    return "\n".join(lines + ([] if settings.sandboxed else [WARNING]))
