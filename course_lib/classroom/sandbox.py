"""The sandbox of a kernel: what it may see, write and use, as a bubblewrap command.

Inside there are the system and Python, read-only; the package `course_lib` and the course's data, read-only; /tmp, empty and
of limited size, the only place to write; no network, no other process, no environment variable of the caller. Submissions,
gradebook, notebooks and tests are not there at all.
"""

import functools
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from course_lib.files import ROOT

NOTEBOOKS = ROOT / "notebooks"
HOME = "/tmp/student"  # a kernel's working folder in the sandbox
NOBODY = 65534  # the user and group that a sandbox runs as when root starts it
MATPLOTLIB = f"{HOME}/.matplotlib"
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
SYSTEM += ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime", "/etc/fonts")
INSTALL = (
    "grading runs student code in a sandbox, and bubblewrap (`bwrap`) is missing: on Debian and Ubuntu `apt install bubblewrap`, "
    "on Fedora `dnf install bubblewrap`; `--no-sandbox` grades without one, with all rights of your account"
)


@dataclass(frozen=True)
class Limits:
    """What a submission may use."""

    memory: int = 3 << 30  # bytes, of each process and of all processes together
    processes: int = 64  # threads count
    disk: int = 64 << 20  # bytes in /tmp, and again in /dev/shm
    output: int = 1 << 20  # bytes a cell may print or display
    cell_seconds: float = 60  # wall clock, for a cell
    seconds: float = 600  # wall clock, for the submission


@functools.cache
def check() -> None:
    """Starts an empty sandbox, once a process.

    Raises:
        RuntimeError: bubblewrap is missing, or cannot make a sandbox here; the message says what to do.
    """
    if not shutil.which("bwrap"):
        raise RuntimeError(INSTALL)
    try:
        done = subprocess.run(
            command([sys.executable, "-c", "import course_lib"], Limits()), capture_output=True, text=True, timeout=60
        )
    except FileNotFoundError as missing:
        raise RuntimeError(f"the sandbox needs the program {missing.filename} (Debian's package util-linux)") from missing
    if done.returncode:
        raise RuntimeError(f"bubblewrap cannot make a sandbox here: {done.stderr.strip() or f'exit status {done.returncode}'}")


def command(argv: list[str], limits: Limits, *, show: tuple[str, ...] = ()) -> list[str]:
    """The command line that runs `argv` in a sandbox; files named in `show` are visible in it, read-only, at their own paths.

    A plain user's sandbox is a user namespace. Root would keep root's number in one, which no limit on processes binds; so
    root's sandbox becomes the user nobody after the mounts, and the user namespace, without a right to more, comes second.
    """
    root = os.geteuid() == 0
    outer = ["bwrap", "--die-with-parent", "--new-session", "--clearenv"]
    outer += ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    outer += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"] if root else ["--unshare-user", "--disable-userns"]
    for name, value in _environment().items():
        outer += ["--setenv", name, value]
    outer += _files(limits, show)
    inner = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all"]
    inner += ["bwrap", "--unshare-user", "--disable-userns", "--dev-bind", "/", "/", "--chdir", HOME]
    bounds = ["prlimit", f"--data={limits.memory}", f"--nproc={limits.processes}", f"--fsize={limits.disk}", "--core=0"]
    return [*outer, *(inner if root else []), *bounds, *argv]


def _environment() -> dict[str, str]:
    """The whole environment in the sandbox; one thread of computation, since submissions run side by side."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    fixed = dict(PATH="/usr/bin:/bin", HOME=HOME, LANG="C.UTF-8", PYTHONPATH=str(ROOT), PYTHONDONTWRITEBYTECODE="1")
    passed = {name: os.environ[name] for name in ("COURSE_SCALE", "COURSE_DATA") if name in os.environ}
    return fixed | dict.fromkeys(names, "1") | dict(COURSE_OFFLINE="1", MPLCONFIGDIR=MATPLOTLIB) | passed


def _files(limits: Limits, show: tuple[str, ...]) -> list[str]:
    """Arguments that lay the file system out."""
    links = [path for path in SYSTEM if os.path.islink(path)]
    visible = [path for path in SYSTEM if path not in links] + [str(ROOT / "course_lib"), str(ROOT / "data"), *show]
    visible += [os.path.abspath(os.environ["COURSE_DATA"])] if "COURSE_DATA" in os.environ else []
    visible += [sys.prefix, sys.base_prefix, os.path.realpath(sys.base_prefix)]
    arguments = ["--proc", "/proc", "--dev", "/dev"]
    for place in ("/dev/shm", "/tmp"):
        arguments += ["--size", str(limits.disk), "--perms", "1777", "--tmpfs", place]
    for path in links:
        arguments += ["--symlink", os.readlink(path), path]
    folders: dict[str, None] = {}
    for path in dict.fromkeys(visible):
        folders |= dict.fromkeys(str(parent) for parent in reversed(Path(path).parents))
    for folder in folders:  # those that bubblewrap makes by itself are closed to nobody
        if folder not in ("/", "/tmp", *visible):
            arguments += ["--perms", "0755", "--dir", folder]
    for path in sorted(dict.fromkeys(visible), key=len):  # a folder before what lies in it
        arguments += ["--ro-bind-try", path, path]
    for folder in (HOME, MATPLOTLIB):
        arguments += ["--perms", "1777", "--dir", folder]
    for fonts in Path(_matplotlib_cache()).glob("fontlist-*.json"):  # to look for them again would take many seconds
        arguments += ["--ro-bind", str(fonts), f"{MATPLOTLIB}/{fonts.name}"]
    return [*arguments, "--remount-ro", "/dev", "--remount-ro", "/", "--chdir", HOME]


@functools.cache
def _matplotlib_cache() -> str:
    """The folder with matplotlib's list of fonts; makes the list where it is missing."""
    import matplotlib

    folder = matplotlib.get_cachedir()
    if not list(Path(folder).glob("fontlist-*.json")):
        import matplotlib.font_manager
    return folder
