"""Cells that must fail: where one does not, failures are being hidden, and no mark of that kernel can be trusted.

Each carries a fresh nonce, which its error must show; each fails in another way that tests fail in.
"""

import secrets

from course_lib.classroom.kernels import Kernel, Ran

LIBRARY = "library = __import__('sys').modules.get({library!r})\n    assert library and {test}, {{nonce!r}}"
KINDS = {
    "assert": "assert False, {nonce!r}",
    "raise": "raise ValueError({nonce!r})",
    "builtins": "assert all([True, False]) or sorted([2, 1]) == [2, 1] or abs(-1) < 0, {nonce!r}",
    "torch.equal": LIBRARY.format(library="torch", test="library.equal(library.zeros(2), library.ones(2))"),
    "torch.allclose": LIBRARY.format(library="torch", test="library.allclose(library.zeros(2), library.ones(2))"),
    "numpy.allclose": LIBRARY.format(library="numpy", test="library.allclose([0, 0], [1, 1])"),
    "numpy.testing": "import numpy.testing\n\n    numpy.testing.assert_array_equal([0, 0], [1, 1], {nonce!r})",
}


def cell(kind: str, nonce: str) -> str:
    """The source of a canary; it leaves no name behind that a notebook uses."""
    return f"def _canary():\n    {KINDS[kind].format(nonce=nonce)}\n\n\n_canary()"


async def survivors(kernel: Kernel) -> list[str]:
    """Runs all canaries in a kernel; gives the kinds that did not fail as they must."""
    lived = []
    for kind in KINDS:
        nonce = secrets.token_hex(16)
        if not failed_with(await kernel.run(cell(kind, nonce), kernel.limits.seconds), nonce):
            lived.append(kind)
    return lived


def failed_with(ran: Ran, nonce: str) -> bool:
    """Whether a cell that was run ended in the error that carries the nonce, and the kernel's reply says so too."""
    return not ran.ok and ran.error is not None and nonce in ran.error.evalue
