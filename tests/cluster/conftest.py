"""A SLURM for the tests of this folder."""
import os
from pathlib import Path

import postgresql_server
import pytest
import slurm_server


@pytest.fixture(scope="session")
def _server():
    if why := slurm_server.lacking():
        pytest.skip(why)
    server = slurm_server.Slurm()
    yield server
    server.stop()


@pytest.fixture
def slurm(_server, monkeypatch):
    """A running SLURM of two nodes, which commands of the test find."""
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_CONF", _server.environment["SLURM_CONF"])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return _server


@pytest.fixture
def postgresql():
    with postgresql_server.running(Path("/tmp") / f"nolabel-postgresql-{os.getpid()}") as found:
        yield found.url
