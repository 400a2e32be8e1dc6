"""Opens the storage of a study: a journal on a file system that all workers see, or a database."""
import random
import time
from functools import partial
from pathlib import Path

import optuna
import sqlalchemy
from optuna.storages import BaseStorage, JournalStorage, RDBStorage

from core import cli
from nas.journal import JournalFile
from nas.retry import storage_label

BUSY_SECONDS = 10  # SQLite itself waits so long for another connection; then nas/retry.py tries again
MAX_OPENING_TRIES = 20  # of a database in which others are making the tables; half a second apart at most


class MissingStudy(ValueError):
    """There is no such study."""


def open_existing(address: str | BaseStorage, name: str) -> BaseStorage:
    """The storage that holds the study; nothing is created.  Raises MissingStudy."""
    if address == "auto":
        place, names = "runs/nas", [path.parent.name for path in study_folder("").glob("*/journal.log")]
    elif isinstance(address, str) and not _exists(address):
        raise MissingStudy(f"{storage_label(address)}: there is no such file")
    else:
        database = isinstance(address, str) and "://" in address
        storage = RDBStorage(address, skip_table_creation=True) if database else open_storage(address, name)
        place, names = storage_label(address), optuna.get_all_study_names(storage)
    if name not in names:
        raise MissingStudy(f"study={name}: {place} holds {', '.join(sorted(names)) or 'no study yet'}")
    return open_storage(address, name)


def _exists(address: str) -> bool:
    """Does the file of a storage exist? True for a server, which is asked later."""
    kind, _, path = address.partition(":///")
    return Path(path).exists() if kind.startswith("sqlite") else "://" in address or cli.expand(address).exists()


def open_storage(address: str | BaseStorage, name: str) -> BaseStorage:
    """"auto" (runs/nas/<study>/journal.log), a file's path (a journal), a database's URL, or an open storage."""
    if isinstance(address, BaseStorage):
        return address
    if "://" in address:
        return _database(address)
    path = study_folder(name) / "journal.log" if address == "auto" else cli.expand(address)
    path.parent.mkdir(parents=True, exist_ok=True)
    return JournalStorage(JournalFile(path))


def _database(url: str) -> RDBStorage:
    """Of several processes that find a database empty, one makes the tables; the others fail, and try again."""
    waits = {"connect_args": {"timeout": BUSY_SECONDS}} if url.startswith("sqlite") and "timeout=" not in url else {}
    opened = partial(RDBStorage, url, engine_kwargs={"pool_pre_ping": True, **waits})
    for _ in range(MAX_OPENING_TRIES):
        try:
            return opened()
        except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.OperationalError, sqlalchemy.exc.ProgrammingError):
            if not sqlalchemy.inspect(sqlalchemy.create_engine(url)).get_table_names():
                raise
            time.sleep(random.uniform(0.05, 0.5))
    return opened()


def study_folder(name: str) -> Path:
    """The folder of a study's runs and report."""
    return Path("runs") / "nas" / name
