"""What came of a submission that was run, and what a reader's own check does meanwhile."""

from collections.abc import Callable
from dataclasses import dataclass, field

from nbformat import NotebookNode


@dataclass
class Watch:
    """What a reader's own check does beside grading."""

    explain: Callable[[NotebookNode], str]  # a failed test -> the source of a cell for the kernel of the tests, which tells why
    tested: Callable[[], None]  # called after each test
    told: dict[str, str] = field(default_factory=dict)  # grade id of a failed test -> what that cell printed


@dataclass
class Outcome:
    """What came of a submission.

    `status` is 'graded', 'timed out' (graded, if `scored`), 'crashed' or 'flagged'. `reasons` are sentences for the
    instructor. Unless `scored`, the outputs are no ground for marks.
    """

    notebook: NotebookNode
    status: str = "graded"
    reasons: list[str] = field(default_factory=list)
    seconds: float = 0.0
    unmarked: list[str] = field(default_factory=list)  # grade ids of tests that were not run
    checked: bool = False  # whether both kernels were found intact after the tests
    closed: bool = False
    watch: Watch | None = None

    @property
    def scored(self) -> bool:
        """Whether the marks count."""
        return self.status in ("graded", "timed out") and not self.unmarked and self.checked

    def flag(self, status: str, reason: str) -> None:
        """Notes a reason; of several statuses the worst stays."""
        if not self.closed:
            order = ("graded", "timed out", "crashed", "flagged")
            self.status = max(self.status, status, key=order.index)
            self.reasons.append(reason)

    def close(self, status: str, reason: str) -> None:
        """Notes the reason of the end; what is noticed while things are taken down counts no more."""
        self.flag(status, reason)
        self.closed = True
