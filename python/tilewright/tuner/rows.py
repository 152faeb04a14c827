"""What one tuned choice looks like, and the checks that every stored one passes before it is believed.

Rows come from files that anyone may have written to. Nothing in them is executed or unpickled: a row names a
backend and the plain values of its config's fields, both are checked against what this process knows, and
the backend's ``rejects()`` has the last word before a launch.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tilewright.errors import FormatError
from tilewright.kernels.interface import BACKEND_NAMES, Backend

ConfigFields = dict[str, int | str]

LONGEST_NAME = 512
LONGEST_CONFIG = 2_000
LONGEST_TRIALS = 1_000_000
_LARGEST_INT = 2**31
_DEEPEST = 4  # trials: list > trial > config > field
_MOST_TRIALS = 5_000


@dataclass(frozen=True, slots=True)
class Trial:
    """One config that was tried: how long it took, or why it has no time."""

    backend: str
    config: ConfigFields
    seconds: float | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """The winner for one bucket of problems on one device, and all that was tried to find it."""

    device: str
    operation: str
    family: str
    m: int
    batch: int
    backend: str
    config: ConfigFields
    seconds: float
    trials_json: str
    provenance: dict[str, str]

    def trials(self) -> tuple[Trial, ...]:
        """Parsed when first needed: most processes never ask.

        Raises:
            FormatError: the text is not a list of trials.
        """
        decoded = decode(self.trials_json, LONGEST_TRIALS)
        if not isinstance(decoded, list) or len(decoded) > _MOST_TRIALS:
            raise FormatError("trials are not a list of at most a few thousand")
        return tuple(_trial(item) for item in decoded)


def encode(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def encode_trials(trials: typing.Iterable[Trial]) -> str:
    return encode([dataclasses.asdict(trial) for trial in trials])


_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


def decode(text: Any, longest: int) -> Any:
    """JSON from an untrusted source: bounded length and depth, no NaN, no infinity.

    Raises:
        FormatError: for anything else.
    """
    if not isinstance(text, str) or len(text) > longest:
        raise FormatError(f"expected JSON text of at most {longest} characters")
    depth = 0
    # Counted before parsing: the parser itself recurses.
    for bracket in re.findall(r"[\[\]{}]", _STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > _DEEPEST:
            raise FormatError(f"JSON is nested deeper than {_DEEPEST}")
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"not JSON: {error}") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def make_row(values: Mapping[str, Any]) -> Row:
    """A row from the plain values of its columns.

    Raises:
        FormatError: naming the first column that is not what it should be.
    """
    texts = {name: _name(values.get(name), name) for name in ("device", "operation", "family", "backend")}
    if texts["backend"] not in BACKEND_NAMES:
        raise FormatError(f"backend is {texts['backend'][:40]!r}; expected one of {', '.join(BACKEND_NAMES)}")
    for name in ("m", "batch"):
        if type(values.get(name)) is not int or not 0 <= values[name] < 2**62:
            raise FormatError(f"{name} is not a size")
    trials_json = values.get("trials")
    if not isinstance(trials_json, str) or len(trials_json) > LONGEST_TRIALS:
        raise FormatError("trials is not a text of sensible length")
    return Row(
        device=texts["device"],
        operation=texts["operation"],
        family=texts["family"],
        m=values["m"],
        batch=values["batch"],
        backend=texts["backend"],
        config=config_fields(decode(values.get("config"), LONGEST_CONFIG)),
        seconds=_seconds(values.get("seconds")),
        trials_json=trials_json,
        provenance=_provenance(decode(values.get("provenance"), LONGEST_CONFIG)),
    )


def config_fields(value: Any) -> ConfigFields:
    """The fields of a config as plain values, checked for type and size only.

    Raises:
        FormatError: for anything but a flat object of short names to integers and short strings.
    """
    if not isinstance(value, dict) or len(value) > 32:
        raise FormatError("config is not a small JSON object")
    for name, field in value.items():
        if not (name.isidentifier() and len(name) <= 32):
            raise FormatError("config has a field without a proper name")
        is_int = isinstance(field, int) and abs(field) <= _LARGEST_INT
        if not is_int and not (isinstance(field, str) and len(field) <= 64):
            raise FormatError(f"config field {name} is neither an integer nor a short string")
    return dict(value)


def rebuild(backend: Backend, fields: ConfigFields) -> Any:
    """The backend's config object with these fields; ``rejects()`` has yet to judge it.

    Raises:
        FormatError: unknown, missing or wrongly typed fields.
    """
    expected = _field_types(backend)
    required = {
        field.name
        for field in dataclasses.fields(backend.config_type)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    if not required <= fields.keys() <= expected.keys():
        raise FormatError(
            f"{backend.operation} {backend.name}: config has fields {', '.join(sorted(fields))}; "
            f"expected {', '.join(expected)}"
        )
    for name, value in fields.items():
        if type(value) is not expected[name]:
            raise FormatError(f"{backend.operation} {backend.name}: config field {name} has the wrong type")
    try:
        return backend.config_type(**fields)
    except (TypeError, ValueError) as error:
        raise FormatError(f"{backend.operation} {backend.name}: {error}") from None


def _field_types(backend: Backend) -> dict[str, type[Any]]:
    """Field name to int, str or bool; an annotation such as ``Literal`` counts as the type of its values."""
    types: dict[str, type[Any]] = {}
    for name, hint in typing.get_type_hints(backend.config_type).items():
        if typing.get_origin(hint) is typing.Literal:
            types[name] = type(typing.get_args(hint)[0])
        else:
            types[name] = hint
    return {field.name: types[field.name] for field in dataclasses.fields(backend.config_type)}


def _name(value: Any, what: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_NAME:
        raise FormatError(f"{what} is not a text of 1 to {LONGEST_NAME} characters")
    return value


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FormatError("seconds is not a number")
    if not (math.isfinite(value) and 0 < value < 1e6):
        raise FormatError("seconds is not a plausible duration")
    return float(value)


def _provenance(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > 32:
        raise FormatError("provenance is not a small JSON object")
    for name, field in value.items():
        if not isinstance(field, str) or len(field) > 128 or len(name) > 32:
            raise FormatError("provenance holds something other than short strings")
    return value


def _trial(value: Any) -> Trial:
    if not isinstance(value, dict) or not value.keys() <= {"backend", "config", "seconds", "reason"}:
        raise FormatError("a trial is not an object of backend, config, seconds, reason")
    backend, reason = value.get("backend"), value.get("reason", "")
    if backend not in BACKEND_NAMES or not isinstance(reason, str):
        raise FormatError("a trial names no known backend")
    seconds = value.get("seconds")
    return Trial(
        backend=backend,
        config=config_fields(value.get("config")),
        seconds=None if seconds is None else _seconds(seconds),
        reason=reason,
    )
