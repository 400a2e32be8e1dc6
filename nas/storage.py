"""Where a study lies: a journal on a file system that all workers see, or a database."""
import random
import time
from functools import partial
from pathlib import Path

import optuna
import sqlalchemy
from optuna.storages import BaseStorage, JournalStorage, RDBStorage

from core import cli
from nas.journal import Journal
from nas.retry import named

BUSY_SECONDS = 10  # for which SQLite itself waits for another connection; then nas/retry.py tries again
TRIES = 20  # to open a database that others are just beginning, half a second apart at most


class Missing(ValueError):
    """There is no such study."""


def existing(said: str | BaseStorage, name: str) -> BaseStorage:
    """The storage that holds the study; nothing is created.  Raises Missing."""
    if said == "auto":
        where, found = "runs/nas", [path.parent.name for path in folder("").glob("*/journal.log")]
    elif isinstance(said, str) and not _there(said):
        raise Missing(f"{named(said)}: there is no such file")
    else:
        database = isinstance(said, str) and "://" in said
        storage = RDBStorage(said, skip_table_creation=True) if database else open_storage(said, name)
        where, found = named(said), optuna.get_all_study_names(storage)
    if name not in found:
        raise Missing(f"study={name}: {where} holds {', '.join(sorted(found)) or 'no study yet'}")
    return open_storage(said, name)


def _there(said: str) -> bool:
    """Is the file there that a storage lies in?  Servers answer for themselves."""
    kind, _, path = said.partition(":///")
    return Path(path).exists() if kind.startswith("sqlite") else "://" in said or cli.expand(said).exists()


def open_storage(said: str | BaseStorage, name: str) -> BaseStorage:
    """"auto" (runs/nas/<study>/journal.log), a file's path (a journal), a database's URL, or what is open already."""
    if isinstance(said, BaseStorage):
        return said
    if "://" in said:
        return _database(said)
    path = folder(name) / "journal.log" if said == "auto" else cli.expand(said)
    path.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(Journal(path))


def _database(url: str) -> RDBStorage:
    """Of several that find a database empty, one makes its tables. The others fail half-way, see tables, and look again."""
    waits = {"connect_args": {"timeout": BUSY_SECONDS}} if url.startswith("sqlite") and "timeout=" not in url else {}
    opened = partial(RDBStorage, url, engine_kwargs={"pool_pre_ping": True, **waits})
    for _ in range(TRIES):
        try:
            return opened()
        except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.OperationalError, sqlalchemy.exc.ProgrammingError):
            if not sqlalchemy.inspect(sqlalchemy.create_engine(url)).get_table_names():
                raise
            time.sleep(random.uniform(0.05, 0.5))
    return opened()


def folder(name: str) -> Path:
    """Where a study's runs and report lie."""
    return Path("runs") / "nas" / name
