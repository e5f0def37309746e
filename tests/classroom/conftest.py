"""What the tests of grading share."""

import functools
from collections.abc import Iterator

import nbgrader.api
import pytest


@pytest.fixture(autouse=True, scope="session")
def _one_look_at_the_version() -> Iterator[None]:
    """nbgrader starts the program `alembic`, for three seconds, whenever it makes a gradebook: once a process is enough."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nbgrader.api, "get_alembic_version", functools.cache(nbgrader.api.get_alembic_version))
        yield
