"""Object stores by the package obstore: S3, Google Cloud Storage, Azure, HTTP servers. What is listed, read and written there.

Credentials come from the environment alone, as obstore reads them (AWS_ACCESS_KEY_ID, AWS_ENDPOINT,
GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME, …), so that no record of a run holds any. A failure is no OSError
and no ValueError: a store that does not answer is no unreadable image, for which another would stand in.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from core.errors import RunError
from core.home import expand
from core.run import counting

SCHEMES = ("s3", "gs", "az", "http", "https")
STORE_SETTINGS = ("cache", "retry_minutes")  # of data
LISTING = "index.txt"  # names the objects of an HTTP server, which has no listing: one path a line
PARALLEL = 8  # requests of a process at once
REQUEST = timedelta(seconds=60)  # for one request, its answer included
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 15.0  # seconds before a request is sent again: twice as many each time
VARIABLES = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (AWS_SKIP_SIGNATURE=true for a public bucket; AWS_REGION, AWS_ENDPOINT)",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS (GOOGLE_SKIP_SIGNATURE=true for a public bucket)",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY (AZURE_SKIP_SIGNATURE=true for a public container)",
}
_METADATA = ("169.254.169.254", "metadata.google.internal")  # whom cloud machines ask for credentials
_RESULT = TypeVar("_RESULT")
_process: int | None = None  # in which obstore's threads run: a forked child has none, and would wait forever


class StoreError(RunError):
    """An object store does not give what is asked for. One line: bucket, key, reason, way out."""

    def __init__(self, text: str, code: int = 1):
        """code: 2 where a setting or the environment is to be changed."""
        super().__init__(text)
        self.code = code

    def __reduce__(self):
        return StoreError, (str(self), self.code)


@dataclass(frozen=True)
class StoreSettings:
    """cache: GB (10⁹ bytes) of disk for what was fetched; retry_minutes: for which a request that fails is sent again."""

    cache: float = 20.0
    retry_minutes: float = 2.0

    @staticmethod
    def of(options: Mapping[str, Any]) -> StoreSettings:
        """Those among the data settings."""
        return StoreSettings(**{name: options[name] for name in STORE_SETTINGS if options.get(name) is not None})

    def __post_init__(self) -> None:
        if not self.cache >= 0.1:
            raise ValueError(f"data.cache={self.cache:g} must be at least 0.1 (GB of disk for what object stores give)")
        if not self.retry_minutes >= 0:
            raise ValueError(f"data.retry_minutes={self.retry_minutes:g} must be 0 or more")


@dataclass(frozen=True)
class Stored:
    """An object.  name: below the store's URL; version: its ETag, or when it was changed."""

    name: str
    size: int
    version: str


def is_remote(root: object) -> bool:
    """Is it the URL of an object store, and no path?"""
    return "://" in str(root or "")


def located(root: str) -> str:
    """A root of the settings as its reader takes it: a URL as it is, a path with its ~ and $VARIABLES replaced."""
    return root if is_remote(root) else str(expand(root))


class Store:
    """What lies below a URL, s3://bucket/prefix or the like. May be pickled; each process has its own connections.

    Raises ValueError where the URL is of no store, or holds credentials.
    """

    def __init__(self, url: str, retry_minutes: float = 2.0) -> None:
        scheme = url.split("://")[0]
        if scheme not in SCHEMES:
            raise ValueError(f"data.root={scheme}://…: stores are {', '.join(f'{one}://' for one in SCHEMES)}")
        parts = urlsplit(url)
        if "@" in parts.netloc or parts.query or parts.fragment:
            shown = f"{scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
            way = f"set {VARIABLES[scheme]} in the environment" if scheme in VARIABLES else "HTTP servers are read without any"
            raise ValueError(f"data.root={shown}: a URL with credentials or a query would be kept in the run's records; leave "
                             f"them out: {way}")
        if not parts.netloc:
            raise ValueError(f"data.root={url} names no bucket, as in {scheme}://bucket/folder")
        self.scheme, self.bucket, self.url, self.retry_minutes = scheme, parts.netloc, url.rstrip("/"), retry_minutes
        self._client: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_client": None}

    def list(self) -> list[Stored]:
        """All objects, in the order of their names.  Raises StoreError."""
        with counting(f"listing {self.url}") as progress:
            found = self._indexed(progress) if self.scheme.startswith("http") else self._listed(progress)
        return sorted(found, key=lambda one: one.name)

    def _listed(self, progress) -> list[Stored]:
        def pages() -> list[Stored]:
            import obstore

            found: list[Stored] = []
            for page in obstore.list(self._connected(), chunk_size=1000):
                found += [_stored(one) for one in page]
                progress(len(found), None)
            return found

        return self._retrying(pages, "")

    def _indexed(self, progress) -> list[Stored]:
        """By the file that lists the names: sizes are asked for one by one."""
        lines = self.read(LISTING, 0, None)[0].decode("utf-8").splitlines()
        names = [line.strip().removeprefix("./") for line in lines if line.strip()]
        with ThreadPoolExecutor(PARALLEL) as pool:
            found = []
            for one in pool.map(self.head, names):
                found.append(one)
                progress(len(found), len(names))
        return found

    def head(self, name: str) -> Stored:
        def ask() -> Stored:
            import obstore

            return _stored(obstore.head(self._connected(), name), name)

        return self._retrying(ask, name)

    def read(self, name: str, start: int, stop: int | None) -> tuple[bytes, Stored]:
        """Bytes start to stop of an object, all where stop is None, and the object as it is now."""

        def get() -> tuple[bytes, Stored]:
            import obstore

            options: Any = {} if stop is None else {"range": (start, stop)}
            answer = obstore.get(self._connected(), name, options=options)
            return answer.bytes().to_bytes(), _stored(answer.meta, name)

        return self._retrying(get, name)

    def write(self, name: str, file: Path | bytes) -> None:
        """Put a file, or bytes, there: whole or not at all."""
        def put() -> None:
            import obstore

            obstore.put(self._connected(), name, file)

        self._retrying(put, name)

    def _connected(self) -> Any:
        global _process
        if _process not in (None, os.getpid()):
            raise StoreError(f"{self.url} cannot be read in a forked process; start it by spawn or forkserver")
        if self._client is None:
            from obstore.store import from_url

            _process = os.getpid()
            retry: Any = {"max_retries": 1, "retry_timeout": timedelta(minutes=self.retry_minutes)}
            client: Any = {"timeout": REQUEST, "connect_timeout": timedelta(seconds=10)}
            client |= {"allow_http": self.scheme == "http" or _plain_http()}
            self._client = from_url(self.url, client_options=client, retry_config=retry)
        return self._client

    def _retrying(self, call: Callable[[], _RESULT], name: str) -> _RESULT:
        """The call's result; after a failure that may pass, again after a pause that grows and is partly random."""
        end, pause, chance = time.monotonic() + 60 * self.retry_minutes, FIRST_PAUSE, random.Random()
        while True:
            try:
                return call()
            except StoreError:
                raise
            except ModuleNotFoundError:
                text = f"data.root={self.url} needs the package obstore: uv sync, or uv pip install obstore"
                raise StoreError(text, 2) from None
            except Exception as error:  # obstore's own, OSError, ValueError
                wait = pause * chance.uniform(0.5, 1.0)
                if (why := _permanent(error)) or time.monotonic() + wait > end:
                    raise StoreError(self._failure(error, name, why), 2 if why else 1) from None
                time.sleep(wait)
                pause = min(2 * pause, LONGEST_PAUSE)

    def _failure(self, error: Exception, name: str, why: str) -> str:
        place = f"{self.url}/{name}" if name else f"data.root={self.url}"
        text = str(error)
        if "NoSuchBucket" in text:
            return f"{place}: there is no bucket {self.bucket}; check data.root, and the endpoint in the environment"
        if why == "credentials":
            code = _code(text) or ("none in the environment" if any(host in text for host in _METADATA) else "refused")
            return (f"{place}: no access to bucket {self.bucket} with these credentials ({code}); set "
                    f"{VARIABLES.get(self.scheme, 'data.root to a server that needs none')} in the environment")
        if why == "missing":
            way = "check data.root, or put it back and resume"
            if name == LISTING:
                way = "an HTTP server needs this file, which names the others, one path a line"
            return f"{place}: bucket {self.bucket} has no such object; {way}"
        if why:
            return f"{place}: {_short(text)}; check data.root and the environment (bucket {self.bucket})"
        return (f"{place}: bucket {self.bucket} did not answer for {self.retry_minutes:g} minutes ({_short(text)}); the same "
                "command resumes, data.retry_minutes sets how long it is tried")


def _plain_http() -> bool:
    """Does the environment name an endpoint without TLS, as one's own MinIO?"""
    named = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "GOOGLE_", "AZURE_"))}
    return any(value.startswith("http://") for name, value in named.items() if "ENDPOINT" in name) or any(
        value.lower() in ("1", "true") for name, value in named.items() if name.endswith("ALLOW_HTTP"))


def _stored(meta: Any, name: str | None = None) -> Stored:
    """HTTP has ETags in quotation marks, Azure's listing without."""
    version = (meta["e_tag"] or "").removeprefix("W/").strip('"') or str(meta["last_modified"])
    return Stored(name or meta["path"], meta["size"], version)


def _permanent(error: Exception) -> str:
    """Why it is of no use to ask again. "" where it may be: the server fails, is busy, or the connection is lost."""
    text = str(error)
    status = int(found[1]) if (found := re.search(r"status code: (\d{3})", text)) else 0
    if type(error).__name__ in ("PermissionDeniedError", "UnauthenticatedError") or status in (401, 403):
        return "credentials"
    if any(host in text for host in _METADATA):
        return "credentials"
    if isinstance(error, FileNotFoundError) or status == 404:
        return "missing"
    if 300 <= status < 500 and status not in (408, 425, 429):
        return "refused"
    return "configuration" if not status and (isinstance(error, (ValueError, TypeError)) or "builder error" in text) else ""


def _code(text: str) -> str:
    return found[1] if (found := re.search(r"<Code>(\w+)</Code>", text)) else ""


def _short(text: str) -> str:
    """The reason in a library's message of many lines."""
    if code := _code(text):
        return code
    line = (text.splitlines() or [""])[0]
    if status := re.search(r"status code: (\d{3}[^:]*)", line):
        return status[1].strip()
    return line.rpartition(" - ")[2][:160]
