"""Tables of tuned choices that come with the package: ``tuned/<device>.json``, one per device.

    {"format": 1, "device": "cuda|NVIDIA L4|sm_89|58", "rows": [{"operation": …, "family": …, "m": 16, …}]}

A table is data like the user's store: every row passes the same checks, and a bad one is ignored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from tilewright.errors import FormatError
from tilewright.tuner.log import warn_once
from tilewright.tuner.rows import Row, encode, make_row
from tilewright.tuner.store import Bucket

FORMAT = 1
_LARGEST_FILE = 32 << 20

Table = Mapping[tuple[str, str], Mapping[Bucket, Row]]


def file_name(device: str) -> str:
    """The table's name for a device key."""
    return re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") + ".json"


@cache
def table(device: str) -> Table:
    """The shipped rows of a device by (operation, family), then bucket; empty if none are shipped."""
    return read(resources.files("tilewright") / "tuned" / file_name(device), device)


def read(file: Traversable, device: str) -> Table:
    """One table; whatever is wrong with it costs a warning, never more than the rows concerned."""
    found: dict[tuple[str, str], dict[Bucket, Row]] = {}
    try:
        if not file.is_file():
            return found
        content = json.loads(file.read_bytes()[:_LARGEST_FILE])
        if (
            not isinstance(content, dict)
            or content.get("format") != FORMAT
            or content.get("device") != device
        ):
            raise FormatError(f"is not a table of format {FORMAT} for {device}")
        rows = content.get("rows")
        if not isinstance(rows, list):
            raise FormatError("has no list of rows")
    except (OSError, ValueError, RecursionError, FormatError) as error:
        warn_once(f"shipped table {file.name} is not used: {error}")
        return found
    for values in rows:
        try:
            row = _row(values, device)
        except FormatError as error:
            warn_once(
                f"shipped table {file.name}: ignoring a malformed row ({error})", key=f"shipped {device}"
            )
            continue
        found.setdefault((row.operation, row.family), {})[row.m, row.batch] = row
    return found


def _row(values: Any, device: str) -> Row:
    if not isinstance(values, dict):
        raise FormatError("a row is not an object")
    try:
        texts = {name: encode(values.get(name)) for name in ("config", "provenance")}
    except (ValueError, RecursionError) as error:
        raise FormatError(str(error)) from None
    # Trials stay on the machine that ran them; a table carries winners.
    return make_row({**values, **texts, "device": device, "trials": "[]"})


def write(file: Path, device: str, rows: Iterable[Row]) -> None:
    """Writes the table of a device from rows of a store."""
    names = ("operation", "family", "m", "batch", "backend", "config", "seconds", "provenance")
    chosen = [{name: getattr(row, name) for name in names} for row in rows if row.device == device]
    chosen.sort(key=lambda row: (row["operation"], row["family"], row["m"], row["batch"]))
    content = {"format": FORMAT, "device": device, "rows": chosen}
    file.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
