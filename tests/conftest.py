"""What every test stands on: smoke scale, no settings of the caller, no network."""

import os
import socket
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

for variable in [name for name in os.environ if name.startswith("COURSE_")]:
    del os.environ[variable]
os.environ["COURSE_SCALE"] = "smoke"  # child processes and kernels inherit it

settings.register_profile("course", deadline=None, derandomize=True)  # the same examples at every run, on any machine
settings.load_profile("course")

LOCAL = ("localhost", "127.", "::1", "0.0.0.0")
connect = socket.socket.connect


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
