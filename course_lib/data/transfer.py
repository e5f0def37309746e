"""One file over HTTP: from the first of several addresses that has it, resumed, never half.

The bytes received so far lie in `<file>.part`; a call asks only for those that are missing, also after a kill. The file's MD5
and size decide whether it is whole; what a server says of its length is not believed.
"""

import hashlib
import math
import os
import time
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

STALL = 15  # seconds without a byte after which a connection is given up
CHUNK = 1 << 16


class Unavailable(Exception):
    """Something cannot be had now; the message says what was tried, and what came of it."""


class OutOfTime(Unavailable):
    """The deadline has passed."""


def download(urls: Iterable[str], path: Path, md5: str, size: int, deadline: float = math.inf, progress: bool = True) -> None:
    """Puts one file at `path`; does nothing where it lies there whole.

    Args:
        urls: addresses of the same file, in order of preference; each goes on from the bytes that are there.
        path: where it goes, in a folder that exists.
        md5: of the whole file, in hexadecimal.
        size: of the whole file in bytes; no more is ever read.
        deadline: on the clock `time.monotonic`.
        progress: whether to show a bar with bytes, rate and time left.

    Raises:
        Unavailable: no address gave it; as OutOfTime at the deadline. The bytes that came are kept for the next call.
    """
    from tqdm.auto import tqdm

    if not problem(path, md5):
        return
    part, failures = path.with_name(f"{path.name}.part"), []
    for url in urls:
        quiet = {"delay": 0.5, "disable": not progress}  # no bar for an address that refuses at once
        with tqdm(total=size, initial=_size(part), desc=path.name, unit="B", unit_scale=True, **quiet) as bar:
            try:
                _take(url, part, md5, size, deadline, bar)
            except OutOfTime:
                kept = f"{_size(part):,} of {size:,} bytes of {path.name} are here, and the next call goes on from there"
                raise OutOfTime("; ".join([*failures, kept])) from None
            except Unavailable as reason:
                failures.append(f"{urlsplit(url).netloc}: {reason}")
            else:
                os.replace(part, path)
                return
    raise Unavailable("; ".join(failures))


def problem(path: Path, md5: str, content: bytes | None = None) -> str:
    """What is wrong with a file, in words; '' where its MD5 is right. `content`: its bytes, where they are at hand."""
    if content is None:
        if not path.is_file():
            return f"{path} is missing"
        content = path.read_bytes()
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return "" if found == md5 else f"{path} is damaged: {len(content):,} bytes with MD5 {found}, expected MD5 {md5}"


def seconds_left(deadline: float) -> float:
    """Seconds until the deadline. Raises OutOfTime where there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise OutOfTime("the time is over")
    return left


def _take(url: str, part: Path, md5: str, size: int, deadline: float, bar) -> None:
    """Completes `part` from one address. A connection that breaks is taken up again as long as each brings something."""
    resumed, before, trouble = _size(part) > 0, -1, ""
    while before < _size(part) < size:
        before = _size(part)
        trouble = _receive(url, part, size, deadline, bar)
    if _size(part) < size:
        raise Unavailable(f"{trouble} ({_size(part):,} of {size:,} bytes are here)")
    if wrong := problem(part, md5):
        part.unlink()
        if not resumed:
            raise Unavailable(f"sends another file: {wrong}")
        bar.initial = 0
        bar.reset()
        _take(url, part, md5, size, deadline, bar)  # the bytes of an earlier call may be to blame: once more, from the start


def _receive(url: str, part: Path, size: int, deadline: float, bar) -> str:
    """Appends to `part` what one connection brings of the missing bytes; gives the reason why no more came."""
    import requests  # here, because most calls of the course find their data and need no HTTP
    import urllib3

    have = _size(part)
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=min(STALL, seconds_left(deadline))) as response:
            response.raise_for_status()
            if response.headers.get("Content-Type", "").startswith("text/html"):
                return "sends a web page (of a network that wants a login?)"
            again = 0 if response.status_code == 206 else have  # bytes that come again, where Range is ignored
            with part.open("ab") as stream:
                while have < size and (chunk := response.raw.read1(CHUNK, decode_content=False)):
                    fresh = chunk[again:][: size - have]
                    again = max(0, again - len(chunk))
                    have += stream.write(fresh)
                    stream.flush()  # a kill loses nothing that has come
                    bar.update(len(fresh))
                    seconds_left(deadline)
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        while error.__context__:  # down to the system's word, below the wrapping of two libraries
            error = error.__context__
        return str(error)
    return "the server stopped sending"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
