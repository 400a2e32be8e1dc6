"""A database server, for the tests that need a real one."""
import os
from pathlib import Path

import postgresql_server
import pytest


@pytest.fixture(scope="module")
def server():
    with postgresql_server.running(Path("/tmp") / f"nolabel-postgresql-{os.getpid()}") as found:
        yield found


@pytest.fixture
def postgresql(server) -> str:
    return server.url
