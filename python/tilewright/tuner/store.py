"""The user's store: what was tuned and measured on this machine, in one SQLite file.

The file is ``tuning.sqlite3`` in ``TILEWRIGHT_CACHE_DIR``, else ``$XDG_CACHE_HOME/tilewright``, else
``~/.cache/tilewright``. It is read once into memory, when a choice is first needed, and written only by
tuning and measuring. No connection outlives a read or a write, so none crosses a fork.

Whatever is wrong with the file, the worst case is one logged warning and an empty store in memory:

* a file that is read-only, locked, or on a full disk: what was tuned holds for this process only;
* a row that fails its checks is ignored, the others are used;
* a corrupt file is left alone until the next write, which moves it to ``tuning.sqlite3.corrupt-<n>``;
* a file of another program or schema version is never written.

SQLite keeps a rollback journal: a WAL file could not be read from a read-only directory nor live on NFS.
"""

from __future__ import annotations

import fcntl
import os
import random
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote
from weakref import WeakSet

from tilewright.errors import FormatError
from tilewright.tuner.log import logger
from tilewright.tuner.rows import LONGEST_CONFIG, LONGEST_TRIALS, Row, decode, encode, make_row

FILE_NAME = "tuning.sqlite3"
SCHEMA_VERSION = 1
_APPLICATION_ID = 0x74776774
_COLUMNS = (
    "device",
    "operation",
    "family",
    "m",
    "batch",
    "backend",
    "config",
    "seconds",
    "trials",
    "provenance",
)
_TABLES = {
    "choices": (
        "CREATE TABLE choices (device TEXT, operation TEXT, family TEXT, m INTEGER, batch INTEGER, "
        "backend TEXT, config TEXT, seconds REAL, trials TEXT, provenance TEXT, "
        "PRIMARY KEY (device, operation, family, m, batch)) WITHOUT ROWID"
    ),
    "devices": "CREATE TABLE devices (device TEXT PRIMARY KEY, rates TEXT) WITHOUT ROWID",
}
_MOST_ROWS = 100_000
_READ_TIMEOUT = 2.0
_WRITE_TIMEOUT = 5.0
_WRITE_PATIENCE = 60.0

Bucket = tuple[int, int]
Family = tuple[str, str, str]


class _Foreign(Exception):
    """The file is a database, but not one of ours."""


class Store:
    """Choices and rates by device; see the module. Safe to share between threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rows: dict[Family, dict[Bucket, Row]] = {}
        self._rates: dict[str, dict[str, float]] = {}
        self._loaded = False
        self._warned = False
        self._lock = threading.RLock()
        _stores.add(self)

    def row(self, device: str, operation: str, family: str, m: int, batch: int) -> Row | None:
        """The row of exactly this bucket."""
        if not self._loaded:
            self._load()
        buckets = self._rows.get((device, operation, family))
        return buckets.get((m, batch)) if buckets is not None else None

    def rows(self, device: str, operation: str, family: str) -> Mapping[Bucket, Row]:
        """Every row of a family, by (M bucket, batch bucket)."""
        if not self._loaded:
            self._load()
        return self._rows.get((device, operation, family), {})

    def every_row(self) -> list[Row]:
        """All rows of all devices, in a fixed order."""
        if not self._loaded:
            self._load()
        with self._lock:
            return [row for key in sorted(self._rows) for _, row in sorted(self._rows[key].items())]

    def rates(self, device: str) -> dict[str, float] | None:
        """The rates that were measured on a device, if any were."""
        if not self._loaded:
            self._load()
        return self._rates.get(device)

    def put(self, row: Row) -> bool:
        """Keeps a row, in place of an older one of the same bucket. False: in this process only."""
        if not self._loaded:
            self._load()
        with self._lock:
            self._keep(row)
        values = [getattr(row, name) for name in _COLUMNS[:6]]
        values += [encode(row.config), row.seconds, row.trials_json, encode(row.provenance)]
        marks = ", ".join("?" * len(values))
        return self._write(f"INSERT OR REPLACE INTO choices VALUES ({marks})", values)

    def put_rates(self, device: str, rates: Mapping[str, float]) -> bool:
        """Keeps the measured rates of a device. False: in this process only."""
        if not self._loaded:
            self._load()
        with self._lock:
            self._rates[device] = dict(rates)
        return self._write("INSERT OR REPLACE INTO devices VALUES (?, ?)", [device, encode(dict(rates))])

    def _keep(self, row: Row) -> None:
        self._rows.setdefault((row.device, row.operation, row.family), {})[row.m, row.batch] = row

    def _warn(self, what: str) -> None:
        if not self._warned:
            self._warned = True
            logger.warning("tuning store %s: %s", self.path, what)

    # Reading

    def _load(self) -> None:
        with self._lock:
            if self._loaded:
                return
            try:
                if self.path.exists():
                    self._read()
            except _Foreign as error:
                self._warn(f"{error}; its contents are not used")
            except (sqlite3.Error, OSError) as error:
                self._warn(f"cannot be read ({error}); going on without it")
            finally:
                self._loaded = True

    def _read(self) -> None:
        # Opened for writing if permitted, although nothing is written: only then can SQLite roll back what a
        # killed writer left half done.
        with self._connect("rw", _READ_TIMEOUT) as connection:
            if not _is_ours(connection):
                return
            # Oversized texts are cut before they reach Python, one character past what the checks accept.
            limits = {"config": LONGEST_CONFIG, "provenance": LONGEST_CONFIG, "trials": LONGEST_TRIALS}
            columns = ", ".join(f"substr({c}, 1, {limits[c] + 1})" if c in limits else c for c in _COLUMNS)
            for values in connection.execute(f"SELECT {columns} FROM choices LIMIT {_MOST_ROWS}"):
                try:
                    self._keep(make_row(dict(zip(_COLUMNS, values, strict=True))))
                except FormatError as error:
                    self._warn(f"ignoring a malformed row ({error}), and any other like it")
            query = f"SELECT device, substr(rates, 1, {LONGEST_CONFIG + 1}) FROM devices LIMIT {_MOST_ROWS}"
            for device, text in connection.execute(query):
                try:
                    self._rates[_text(device)] = _positive_numbers(decode(text, LONGEST_CONFIG))
                except FormatError as error:
                    self._warn(f"ignoring malformed rates ({error}), and any other like them")

    # Writing

    def _write(self, statement: str, values: list[Any]) -> bool:
        deadline = time.monotonic() + _WRITE_PATIENCE
        moved_aside = False
        while True:
            try:
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._transaction(statement, values)
                return True
            except _Foreign as error:
                return self._memory_only(str(error))
            except OSError as error:
                return self._memory_only(f"cannot be written ({error})")
            except sqlite3.Error as error:
                code = _code(error)
                if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and time.monotonic() < deadline:
                    time.sleep(random.uniform(0.005, 0.05))
                elif code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) and not moved_aside:
                    moved_aside = True
                    try:
                        self._move_aside()
                    except OSError as problem:
                        return self._memory_only(f"is corrupt and cannot be moved aside ({problem})")
                else:
                    return self._memory_only(f"cannot be written ({error})")

    def _memory_only(self, what: str) -> bool:
        self._warn(f"{what}; what is tuned now holds for this process only")
        return False

    def _transaction(self, statement: str, values: list[Any]) -> None:
        with self._connect("rwc", _WRITE_TIMEOUT) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
            connection.execute("BEGIN IMMEDIATE")
            try:
                if not _is_ours(connection):
                    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                    for table in _TABLES.values():
                        connection.execute(table)
                connection.execute(statement, values)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _move_aside(self) -> None:
        """Renames a corrupt file. Under a lock and after a second look: another process may have done so."""
        with open(self.path.with_name(FILE_NAME + ".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self.path.exists() or not self._is_corrupt():
                return
            number = 1
            while (aside := self.path.with_name(f"{FILE_NAME}.corrupt-{number}")).exists():
                number += 1
            os.rename(self.path, aside)
            # A journal that outlived its file would be played into the new one.
            journal = self.path.with_name(FILE_NAME + "-journal")
            if journal.exists():
                os.rename(journal, aside.with_name(aside.name + "-journal"))
        logger.warning("tuning store %s was corrupt; it was moved to %s", self.path, aside.name)

    def _is_corrupt(self) -> bool:
        try:
            with self._connect("rw", _WRITE_TIMEOUT) as connection:
                return bool(connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",))
        except sqlite3.Error as error:
            return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

    @contextmanager
    def _connect(self, mode: str, timeout: float) -> Iterator[sqlite3.Connection]:
        uri = f"file:{quote(str(self.path.absolute()))}?mode={mode}"
        with closing(sqlite3.connect(uri, uri=True, timeout=timeout, isolation_level=None)) as connection:
            connection.text_factory = _decode_leniently
            connection.execute("PRAGMA trusted_schema = OFF")
            yield connection


_stores: WeakSet[Store] = WeakSet()


def _after_fork() -> None:
    # Another thread of the parent may have held a lock; its thread does not exist in the child.
    for store in list(_stores):
        store._lock = threading.RLock()


os.register_at_fork(after_in_child=_after_fork)


def user_store() -> Store:
    """The store of this user; one object per path."""
    return _store_at(cache_directory() / FILE_NAME)


@cache
def _store_at(path: Path) -> Store:
    return Store(path)


def cache_directory() -> Path:
    """``TILEWRIGHT_CACHE_DIR``, else ``$XDG_CACHE_HOME/tilewright``, else ``~/.cache/tilewright``."""
    chosen = os.environ.get("TILEWRIGHT_CACHE_DIR")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    # The XDG specification has relative paths ignored.
    if base and os.path.isabs(base):
        return Path(base) / "tilewright"
    return Path(os.path.expanduser("~")) / ".cache" / "tilewright"


def _is_ours(connection: sqlite3.Connection) -> bool:
    """True for a store, False for an empty file.

    Raises:
        _Foreign: for anything else, down to a trigger or view that someone added.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    schema = connection.execute("SELECT type, name, sql FROM sqlite_master LIMIT 100").fetchall()
    if (application, version, schema) == (0, 0, []):
        return False
    if application != _APPLICATION_ID:
        raise _Foreign("is some other program's database")
    if version != SCHEMA_VERSION:
        raise _Foreign(f"has schema version {version}, this tilewright reads {SCHEMA_VERSION}")
    if sorted(schema) != [("table", name, sql) for name, sql in sorted(_TABLES.items())]:
        raise _Foreign("has tables that are not tilewright's")
    return True


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; extended codes carry more above the low byte."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _decode_leniently(text: bytes) -> str:
    # Strict decoding would fail the whole query for one bad text; this one then fails its own checks.
    return text.decode("utf-8", errors="replace")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise FormatError("device is not a text")
    return value


def _positive_numbers(value: Any) -> dict[str, float]:
    if not isinstance(value, dict) or len(value) > 32:
        raise FormatError("rates are not a small JSON object")
    for rate in value.values():
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < 1e18:
            raise FormatError("a rate is not a positive number")
    return {name: float(rate) for name, rate in value.items()}
