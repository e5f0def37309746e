"""Pairs of submissions whose answers are alike, found by copydetect: code without the names in it, and words as they stand.

Nothing that a student wrote is run. What the notebook itself shows does not count, and a submission is compared with the model
answers as well, which are public.
"""

import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from copydetect import CodeFingerprint, compare_files
from nbformat import NotebookNode
from tqdm.auto import tqdm

from course_lib.classroom import cells
from course_lib.classroom.collect import collect
from course_lib.classroom.gradebook import load
from course_lib.classroom.release import SECRETS
from course_lib.classroom.sandbox import NOTEBOOKS
from course_lib.classroom.text import spreadsheet
from course_lib.files import replacing

CHANCE = 25  # characters in a row, each name being one: what is shorter is alike by chance. copydetect's own default
SHORTEST = 100  # such characters of answers, starter code left out: of fewer nothing can be told
LONGEST = 50_000  # characters of answers; those of this course have about 2,000
THRESHOLD = 0.5  # of the answers: right answers written in another way than the model's share less than 0.3, disguised ones 1.0
MODEL = "(model answers)"  # no student's name has brackets at its ends
STUBS = ("raise NotImplementedError()", "raise NotImplementedError('words')")  # in a release, and in a copy to work in
COLUMNS = ["notebook", "part", "student", "other", "share", "characters"]


def command(submissions: Path, out: Path, *, only: str | None = None, threshold: float = THRESHOLD) -> int:
    """Writes `out`/similarity.csv, a line for each pair that is alike, and prints it; gives the exit status."""
    table, skipped = compare(submissions, only=only, threshold=threshold)
    path = out / "similarity.csv"
    shown = table.assign(**{name: table[name].map(spreadsheet) for name in ("student", "other")})
    with replacing(path) as scratch:
        shown.to_csv(scratch, index=False)
    print(shown.to_string(index=False) if len(table) else f"no two submissions share {threshold:.0%} of their answers")
    for line in skipped:
        print(f"not compared: {line}")
    print(f"pairs: {path}; two that are alike may have one source, or one obvious answer: look at both before you ask")
    return 0


def compare(
    submissions: Path,
    *,
    only: str | None = None,
    threshold: float = THRESHOLD,
    notebooks: Path = NOTEBOOKS,
    progress: bool = True,
) -> tuple[pd.DataFrame, list[str]]:
    """Return the pairs of students whose answers to a notebook are alike, the most alike first, and what was not compared.

    Args:
        submissions: a folder or zip file; see `collect`.
        only: compare the notebook whose name begins so.
        threshold: the share of one's answers, in (0, 1], that must stand in the other's.
        notebooks: the folder of the instructor's notebooks.
        progress: show a bar.

    Raises:
        ValueError: `threshold` is no share, nothing is there to compare, or no such notebook.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold is {threshold}; it must be above 0 and at most 1")
    masters = load(notebooks, only)
    handed_in = collect(submissions, masters)
    if not handed_in:
        raise ValueError(f"no notebook and no zip file is in {submissions}")
    skipped = [f"{one.unit} {one.student}: {one.problem}" for one in handed_in if one.problem]
    found = []
    for unit, master in masters.items():
        texts = {one.student: _answers(master, one.notebook()) for one in handed_in if one.unit == unit and not one.problem}
        texts |= {MODEL: _parts([cell for cell in master.cells if cells.is_answer(cell)])} if texts else {}
        for part, starter in _starter(master).items():
            prints, long = _fingerprints({student: text[part] for student, text in texts.items()}, starter, part)
            skipped += [f"{unit} {student}: more than {LONGEST:,} characters" for student in long]
            bar = tqdm(
                total=len(prints) * (len(prints) - 1) // 2,
                desc=f"{unit[:2]} {part}",
                leave=False,
                disable=None if progress else True,
            )
            found += [(unit, part, *pair) for pair in _alike(prints, threshold, bar)]
    return pd.DataFrame(found, columns=COLUMNS).sort_values("share", ascending=False, ignore_index=True, kind="stable"), skipped


def _alike(prints: dict[str, CodeFingerprint], threshold: float, bar: tqdm) -> Iterator[tuple[str, str, float, int]]:
    """Each pair that shares enough, its share and how many characters that is."""
    with bar:
        for one, other in itertools.combinations(prints, 2):
            shared, shares, _ = compare_files(prints[one], prints[other])
            bar.update()
            if (share := min(1.0, float(max(shares)))) >= threshold:
                yield one, other, round(share, 2), int(shared)


def _answers(master: NotebookNode, submission: NotebookNode) -> dict[str, str]:
    """What a student wrote: answers in code and in words, and code cells that the notebook has not."""
    answers = {cells.grade_id(cell) for cell in master.cells if cells.is_answer(cell)}
    given = {cell.source.strip() for cell in master.cells}
    own = [c for c in submission.cells if cells.grade_id(c) in answers or _is_added(c, given)]
    return _parts(own)


def _is_added(cell: NotebookNode, given: set[str]) -> bool:
    return cell.cell_type == "code" and not cells.grade_id(cell) and cell.source.strip() not in given


def _parts(chosen: list[NotebookNode]) -> dict[str, str]:
    kinds = dict(code="code", words="markdown")
    return {part: "\n\n".join(cell.source for cell in chosen if cell.cell_type == kind) for part, kind in kinds.items()}


def _starter(master: NotebookNode) -> dict[str, list[str]]:
    """What students have been given, code and words: the notebook, with each stub in place of solutions."""
    code = [_without_secrets(cell.source, stub) for stub in STUBS for cell in master.cells if cell.cell_type == "code"]
    words = [cell.source for cell in master.cells if cell.cell_type == "markdown" and not cells.is_answer(cell)]
    return dict(code=code, words=words)


def _without_secrets(source: str, stub: str) -> str:
    kept, inside = [], False
    for line in source.splitlines():
        if any(begin in line for begin, _ in SECRETS):
            inside = True
            kept.append(line[: len(line) - len(line.lstrip())] + stub)
        elif any(end in line for _, end in SECRETS):
            inside = False
        elif not inside:
            kept.append(line)
    return "\n".join(kept)


def _fingerprints(texts: dict[str, str], starter: list[str], part: str) -> tuple[dict[str, CodeFingerprint], list[str]]:
    """The fingerprints of all texts that can be compared, and whose texts are too long."""
    given = np.unique([code for text in starter for code in _fingerprint(text, part).hashes])
    fit = {student: _fingerprint(text, part, given) for student, text in texts.items() if len(text) <= LONGEST}
    return {student: one for student, one in fit.items() if one.token_coverage >= SHORTEST}, sorted(set(texts) - set(fit))


def _fingerprint(text: str, part: str, given: np.ndarray | None = None) -> CodeFingerprint:
    text = text if part == "code" else " ".join(text.lower().split())
    return CodeFingerprint(
        "answers.py", CHANCE, 1, boilerplate=given, filter=part == "code", language="python", fp=io.StringIO(text)
    )
