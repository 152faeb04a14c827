from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.tuner.fakes import DEVICE, OPERATION
from tilewright.errors import FormatError
from tilewright.tuner.device import device_key
from tilewright.tuner.rows import Row, Trial, encode_trials
from tilewright.tuner.store import FILE_NAME, SCHEMA_VERSION, Store, user_store

KEY = device_key(DEVICE)
TRIALS = (
    Trial("cpu", {"algorithm": "gemm", "block_m": 64}, 1e-3),
    Trial("aten", {"algorithm": "mm", "block_m": 1}, None, "y is wrong"),
)


def row(m: int = 16, family: str = "f32", seconds: float = 1e-3) -> Row:
    return Row(
        device=KEY,
        operation=OPERATION,
        family=family,
        m=m,
        batch=1,
        backend="cpu",
        config={"algorithm": "gemm", "block_m": 64},
        seconds=seconds,
        trials_json=encode_trials(TRIALS),
        provenance={"torch": "2.13", "time": "now"},
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store" / FILE_NAME


@pytest.fixture
def full(path: Path) -> Path:
    """A store with three rows."""
    store = Store(path)
    assert all(store.put(row(m)) for m in (1, 16, 128))
    return path


def warnings(caplog: pytest.LogCaptureFixture) -> int:
    return sum(record.levelname == "WARNING" for record in caplog.records)


def test_what_was_put_is_read_back(full: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(full)
    assert store.row(KEY, OPERATION, "f32", 16, 1) == row(16)
    assert store.row(KEY, OPERATION, "f32", 16, 2) is None
    assert store.row("another device", OPERATION, "f32", 16, 1) is None
    assert sorted(store.rows(KEY, OPERATION, "f32")) == [(1, 1), (16, 1), (128, 1)]
    assert store.every_row()[1].trials() == TRIALS
    assert warnings(caplog) == 0


def test_a_later_row_takes_the_place_of_an_earlier_one(full: Path) -> None:
    assert Store(full).put(row(16, seconds=2e-3))
    found = Store(full).row(KEY, OPERATION, "f32", 16, 1)
    assert found is not None
    assert found.seconds == 2e-3
    assert len(Store(full).every_row()) == 3


def test_reading_creates_nothing(path: Path) -> None:
    store = Store(path)
    assert store.row(KEY, OPERATION, "f32", 16, 1) is None
    assert store.rates(KEY) is None
    assert not path.parent.exists()


def test_reading_changes_nothing(full: Path) -> None:
    before = full.read_bytes(), full.stat().st_mtime_ns
    assert len(Store(full).every_row()) == 3
    assert (full.read_bytes(), full.stat().st_mtime_ns) == before
    assert [file.name for file in full.parent.iterdir()] == [FILE_NAME]


def test_the_store_is_a_rollback_journal_database(full: Path) -> None:
    with sqlite3.connect(full) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert connection.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)


def test_the_user_store_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEWRIGHT_CACHE_DIR", str(tmp_path / "a"))
    assert user_store().path == tmp_path / "a" / FILE_NAME
    assert user_store() is user_store()
    monkeypatch.delenv("TILEWRIGHT_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert user_store().path == tmp_path / "x" / "tilewright" / FILE_NAME
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_store().path == tmp_path / ".cache" / "tilewright" / FILE_NAME


# Damage


@pytest.mark.parametrize("damage", ["garbage", "cut in the middle", "flipped bytes"])
def test_a_damaged_file_costs_one_warning(full: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    data = full.read_bytes()
    broken = {
        "garbage": b"not a database " * 1000,
        "cut in the middle": data[: len(data) // 2],
        "flipped bytes": data[:100] + bytes(255 - byte for byte in data[100:]),
    }[damage]
    full.write_bytes(broken)
    store = Store(full)
    for _ in range(3):
        assert store.row(KEY, OPERATION, "f32", 16, 1) is None
    assert warnings(caplog) == 1
    assert full.read_bytes() == broken  # never deleted or changed by a reader


def test_an_empty_file_is_an_empty_store(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.parent.mkdir()
    path.touch()
    assert Store(path).every_row() == []
    assert Store(path).put(row())
    assert Store(path).every_row() == [row()]
    assert warnings(caplog) == 0


def test_a_write_moves_a_corrupt_file_aside(full: Path) -> None:
    for number in (1, 2):
        full.write_bytes(b"garbage" * number * 500)
        assert Store(full).put(row(number))
        assert Store(full).every_row() == [row(number)]
        assert full.with_name(f"{FILE_NAME}.corrupt-{number}").read_bytes() == b"garbage" * number * 500


def test_a_stale_belief_moves_no_sound_file(full: Path) -> None:
    """Another process may have put a new file in place since we saw the corrupt one."""
    store = Store(full)
    store._move_aside()
    assert len(Store(full).every_row()) == 3
    assert not list(full.parent.glob("*corrupt*"))


@pytest.mark.parametrize(
    "statement",
    [
        "PRAGMA user_version = 99",
        "PRAGMA application_id = 1",
        "CREATE TABLE more (x)",
        "CREATE TRIGGER t AFTER INSERT ON choices BEGIN DELETE FROM choices; END",
        "CREATE VIEW v AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x FROM n) SELECT * FROM n",
        "ALTER TABLE choices ADD COLUMN more TEXT",
    ],
)
def test_a_foreign_file_is_neither_read_nor_written(
    full: Path, statement: str, caplog: pytest.LogCaptureFixture
) -> None:
    with sqlite3.connect(full) as connection:
        connection.execute(statement)
    connection.close()
    before = full.read_bytes()
    store = Store(full)
    assert store.every_row() == []
    assert not store.put(row(3))
    assert store.every_row() == [row(3)]  # in memory
    assert full.read_bytes() == before
    assert warnings(caplog) == 1


def tamper(path: Path, column: str, value: object) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(f"UPDATE choices SET {column} = ? WHERE m = 16", [value])
    connection.close()


HOSTILE = {
    "unknown backend": ("backend", "backdoor"),
    "a number for a backend": ("backend", 7),
    "bytes for a backend": ("backend", b"cpu"),
    "no config": ("config", None),
    "a list for a config": ("config", "[1,2]"),
    "nested config": ("config", '{"algorithm": {"a": 1}}'),
    "deep JSON": ("config", "[" * 900 + "]" * 900),
    "long config": ("config", json.dumps({f"f{i}": "x" * 60 for i in range(32)} | {"pad": "y" * 60})),
    "many fields": ("config", json.dumps({f"f{i}": i for i in range(33)})),
    "huge integer": ("config", '{"block_m": 99999999999999999999}'),
    "integer beyond parsing": ("config", '{"block_m": ' + "9" * 1900 + "}"),
    "a float": ("config", '{"block_m": 1.5}'),
    "NaN": ("config", '{"block_m": NaN}'),
    "a long string": ("config", json.dumps({"algorithm": "x" * 65})),
    "no identifier": ("config", "{\"__import__('os')\": 1}"),
    "not JSON": ("config", "cos\nsystem\n(S'true'\ntR."),
    "no time": ("seconds", None),
    "negative time": ("seconds", -1.0),
    "no finite time": ("seconds", float("inf")),
    "text for time": ("seconds", "soon"),
    "bytes for trials": ("trials", b"[]"),
    "provenance of numbers": ("provenance", '{"torch": 2}'),
    "provenance in a list": ("provenance", "[]"),
    "empty device": ("device", ""),
    "long family": ("family", "x" * 1000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_tampered_row_is_ignored_alone(full: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    tamper(full, *HOSTILE[name])
    rows = Store(full).every_row()
    assert [found.m for found in rows] == [1, 128]
    assert warnings(caplog) == 1


def test_text_that_is_not_utf8_spoils_only_its_row(full: Path, caplog: pytest.LogCaptureFixture) -> None:
    with sqlite3.connect(full) as connection:
        connection.execute("UPDATE choices SET backend = CAST(x'ff63' AS TEXT) WHERE m = 16")
    connection.close()
    assert [found.m for found in Store(full).every_row()] == [1, 128]
    assert warnings(caplog) == 1


@pytest.mark.parametrize(
    "trials",
    [
        "{}",
        "[1]",
        '[{"backend": "cpu"}]',
        '[{"backend": "x", "config": {}}]',
        "[" * 5000,
        '[{"more": 1}]',
        "[null]",
    ],
)
def test_tampered_trials_are_refused_when_they_are_read(full: Path, trials: str) -> None:
    tamper(full, "trials", trials)
    found = Store(full).row(KEY, OPERATION, "f32", 16, 1)
    assert found is not None
    with pytest.raises(FormatError):
        found.trials()


def test_many_tampered_rows_cost_one_warning(full: Path, caplog: pytest.LogCaptureFixture) -> None:
    with sqlite3.connect(full) as connection:
        connection.execute("UPDATE choices SET seconds = 'x'")
    connection.close()
    assert Store(full).every_row() == []
    assert warnings(caplog) == 1


@pytest.mark.parametrize(
    "rates", ["[]", "{", '{"bandwidth": -1}', '{"bandwidth": "fast"}', '{"bandwidth": 1e99}']
)
def test_tampered_rates_are_ignored(path: Path, rates: str, caplog: pytest.LogCaptureFixture) -> None:
    Store(path).put_rates(KEY, {"bandwidth": 1e9})
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE devices SET rates = ?", [rates])
    connection.close()
    assert Store(path).rates(KEY) is None
    assert warnings(caplog) == 1


# Files that cannot be written


def test_without_a_directory_the_store_lives_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    store = Store(blocked / "below" / FILE_NAME)
    assert not store.put(row())
    assert not store.put(row(2))
    assert [found.m for found in store.every_row()] == [2, 16]
    assert warnings(caplog) == 1


def in_child(
    work: str, path: Path, *, unprivileged: bool = False, environment: dict[str, str] | None = None
) -> str:
    """What `work` prints in a new interpreter that holds `store` (at `path`), `row` and `warned`."""
    script = f"""
import logging, os, resource, signal, sys
warned = []
class Handler(logging.Handler):
    def emit(self, record): warned.append(record.getMessage())
logging.getLogger("tilewright").addHandler(Handler())
from pathlib import Path
from tests.tuner.test_store import KEY, OPERATION, row
from tilewright.tuner.store import Store
if {unprivileged} and os.geteuid() == 0:
    os.setgid(65534); os.setuid(65534)
store = Store(Path({str(path)!r}))
{work}
"""
    root = Path(__file__).parents[2]
    paths = [str(root), str(root / "python"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **(environment or {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_read_only_store_is_read_and_warned_of_once(full: Path) -> None:
    # Where an unprivileged user can go: pytest's own folder is closed to others.
    public = Path(f"/tmp/tilewright-read-only-{os.getpid()}")
    shutil.copytree(full.parent, public)
    try:
        (public / FILE_NAME).chmod(0o444)
        public.chmod(0o555)
        printed = in_child(
            "rows = len(store.every_row()); before = len(warned)\n"
            "kept = store.put(row(3)); store.put(row(4))\n"
            "print(rows, before, kept, len(store.every_row()), len(warned))",
            public / FILE_NAME,
            unprivileged=True,
        )
    finally:
        public.chmod(0o755)
        shutil.rmtree(public)
    assert printed.split() == ["3", "0", "False", "5", "1"]


def test_a_full_disk_is_warned_of_once_and_loses_nothing(full: Path) -> None:
    printed = in_child(
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "limit = store.path.stat().st_size\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
        "kept = [store.put(row(m, family='f' * 400)) for m in range(1000, 1200)]\n"
        "print(all(kept), len(store.every_row()), len(warned))",
        full,
    )
    assert printed.split() == ["False", "203", "1"]
    rows = Store(full).every_row()
    assert {1, 16, 128} <= {found.m for found in rows}


def test_a_locked_store_is_given_up_after_a_while(
    full: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("_READ_TIMEOUT", "_WRITE_TIMEOUT", "_WRITE_PATIENCE"):
        monkeypatch.setattr(f"tilewright.tuner.store.{name}", 0.05)
    holder = sqlite3.connect(full, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        store = Store(full)
        assert store.every_row() == []
        assert not store.put(row(3))
    finally:
        holder.close()
    assert warnings(caplog) == 1
    assert len(Store(full).every_row()) == 3


# Many processes


def test_eight_writers_lose_nothing(path: Path) -> None:
    rows_each = 12
    work = f"""
import multiprocessing
def write(worker):
    mine = Store(store.path)
    return all(mine.put(row(1000 * worker + i)) for i in range({rows_each}))
with multiprocessing.get_context("fork").Pool(8) as pool:
    print(all(pool.map(write, range(1, 9), chunksize=1)), len(warned))
"""
    assert in_child(work, path).split() == ["True", "0"]
    assert [found.m for found in Store(path).every_row()] == [
        1000 * worker + i for worker in range(1, 9) for i in range(rows_each)
    ]


def write_forever(path: Path, report: int) -> None:
    """Puts one row after the other and reports the number of each that is on disk."""
    store = Store(path)
    for number in itertools.count(1):
        kept = store.put(row(number, family="f" * 300))
        os.write(report, b"%d\n" % number if kept else b"failed\n")


def test_kill_in_a_write_leaves_a_readable_store(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Killed at several moments; what was reported as written is there each time, and writing goes on."""
    most = 0
    for attempt in range(6):
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                write_forever(path, write)
            finally:
                os._exit(1)
        os.close(write)
        with os.fdopen(read) as pipe:
            lines = [pipe.readline()]  # by now it writes
            time.sleep(0.05 + 0.037 * attempt)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            lines += pipe.read().splitlines()
        most = max(most, *(int(line) for line in lines))
        assert {found.m for found in Store(path).every_row()} >= set(range(1, most + 1))
        assert Store(path).put(row(10_000 + attempt))
    assert most > 6
    assert warnings(caplog) == 0


def test_a_store_survives_a_fork_while_another_thread_holds_its_lock(full: Path) -> None:
    store = Store(full)
    assert len(store.every_row()) == 3
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with store._lock:
            held.set()
            release.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    child = os.fork()
    if child == 0:
        # An alarm, so that a deadlock fails the test instead of hanging it.
        signal.alarm(20)
        ok = len(store.every_row()) == 3 and store.put(row(77))
        os._exit(0 if ok else 1)
    release.set()
    thread.join()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert len(Store(full).every_row()) == 4


def test_threads_share_a_store(path: Path) -> None:
    store = Store(path)
    threads = [threading.Thread(target=lambda m=m: store.put(row(m))) for m in range(1, 17)]  # type: ignore[misc]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.every_row()) == len(Store(path).every_row()) == 16
