"""What every test stands on: smoke scale, no settings of the caller, no network."""

import os
import socket
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

for variable in [name for name in os.environ if name.startswith(("COURSE_", "TQDM_"))]:
    del os.environ[variable]
os.environ["COURSE_SCALE"] = "smoke"  # child processes and kernels inherit it

settings.register_profile("course", deadline=None, derandomize=True)  # the same examples at every run, on any machine
settings.load_profile("course")

LOCAL = ("localhost", "127.", "::1", "0.0.0.0")
connect = socket.socket.connect


# Scopes that take longest, longest first: of scopes handed out in this order, no long one is left for the end
LONG = (
    *("test_lab_notebooks", "test_site", "test_hostile", "test_contract", "test_apart", "test_proof", "test_sample_class"),
    *("test_exercises", "test_surgery", "test_grade", "test_channel_pruning", "test_interrupts", "test_checking", "test_runner"),
    *("00_why_compress", "test_thinet", "01_vector_quantization", "test_filter_pruning", "test_grading_pages"),
    *("test_surgery_refusals", "06_channel_pruning", "07_thinet", "04_filter_pruning", "03_network_trimming", "08_comparison"),
    *("02_weight_pruning", "05_deep_compression", "09_smallest_file", "test_training", "test_storage", "test_download"),
    "test_network_trimming",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Orders scopes by length."""
    names = [item.path.stem for item in items]
    place = {name: i for i, name in enumerate(LONG)}
    items[:] = [item for _, item in sorted(zip(names, items, strict=True), key=lambda pair: place.get(pair[0], len(LONG)))]


@pytest.fixture(autouse=True)
def _no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuses connections to other machines, except to a test marked `network`."""

    def only_local(self: socket.socket, address):
        far = self.family in (socket.AF_INET, socket.AF_INET6) and not str(address[0]).startswith(LOCAL)
        if far and self.type == socket.SOCK_STREAM:  # a datagram socket is "connected" to learn one's own address
            raise AssertionError(f"a test connects to {address}: mark it `network`, or serve what it needs from this machine")
        return connect(self, address)

    if request.node.get_closest_marker("network") is None:
        monkeypatch.setattr(socket.socket, "connect", only_local)


@pytest.fixture(autouse=True)
def _no_open_figures() -> Iterator[None]:
    """Closes what a test has drawn: pyplot warns at the 21st figure, and a warning is an error."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")
