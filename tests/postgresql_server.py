"""A database server, for the tests that need a real one."""
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def binaries() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


class Server:
    """PostgreSQL on a free port of this machine, as another user where we are root, who may not run one."""

    def __init__(self, folder: Path):
        user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        if user:
            shutil.chown(folder, "postgres")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        data, self.url = folder / "data", f"postgresql+psycopg://us@127.0.0.1:{port}/postgres"
        self.run([*user, str(binaries() / "initdb"), "-D", str(data), "-U", "us", "--auth=trust"])
        self.settings = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        self.control = [*user, str(binaries() / "pg_ctl"), "-D", str(data), "-w", "-l", str(folder / "log")]

    @staticmethod
    def run(command: list[str]) -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/")

    def start(self) -> None:
        self.run([*self.control, "-o", self.settings, "start"])

    def stop(self) -> None:
        """At once, as a server that is lost."""
        self.run([*self.control, "-m", "immediate", "stop"])


@contextmanager
def running(folder: Path) -> Iterator[Server]:
    """Skips the test where there is none.  folder: a short path, for the socket"""
    if binaries() is None:
        pytest.skip("needs PostgreSQL (Debian: apt-get install postgresql)")
    folder.mkdir()
    found = Server(folder)
    found.start()
    yield found
    found.stop()
    shutil.rmtree(folder, ignore_errors=True)
