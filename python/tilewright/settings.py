"""``tilewright.options(...)``: how the user steers the choice of kernels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from tilewright.errors import ArgumentError
from tilewright.kernels.interface import BACKEND_NAMES, TEST_BACKEND_NAMES, Config

_PRECISIONS = ("auto", "ieee", "tf32")


@dataclass(frozen=True, slots=True)
class Options:
    """The settings in force. Equal settings share one `key`, so the hot path compares an int."""

    backend: str | None = None
    config: Config | None = None
    precision: Literal["auto", "ieee", "tf32"] = "auto"
    deterministic: bool = True
    strict: bool = False
    pack: bool = True
    key: int = field(default=0, compare=False)


_interned: dict[Options, Options] = {}


def _intern(candidate: Options) -> Options:
    known = _interned.get(candidate)
    if known is None:
        known = _interned.setdefault(candidate, replace(candidate, key=len(_interned)))
    return known


def _checked(
    backend: Any, config: Any, precision: Any, deterministic: Any, strict: Any, pack: Any, source: str
) -> Options:
    if backend is not None and backend not in BACKEND_NAMES + TEST_BACKEND_NAMES:
        raise ArgumentError(
            f"{source}: backend is {backend!r}; expected one of {', '.join(BACKEND_NAMES)}, or None to choose"
        )
    if config is not None and backend is None:
        raise ArgumentError(
            f"{source}: config is {config}, but no backend; name the backend that it belongs to"
        )
    if precision not in _PRECISIONS:
        raise ArgumentError(
            f"{source}: precision is {precision!r}; expected one of {', '.join(_PRECISIONS)} "
            "(auto follows torch's own fp32_precision settings)"
        )
    for name, value in (("deterministic", deterministic), ("strict", strict), ("pack", pack)):
        if not isinstance(value, bool):
            raise ArgumentError(f"{source}: {name} is {value!r}; expected True or False")
    return _intern(Options(backend, config, precision, deterministic, strict, pack))


def _flag(name: str, default: bool) -> bool:
    text = os.environ.get(name)
    if text is None or text == "":
        return default
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise ArgumentError(f"{name} is {text!r}; expected 1 or 0")


def _from_environment() -> Options:
    return _checked(
        os.environ.get("TILEWRIGHT_BACKEND") or None,
        None,
        os.environ.get("TILEWRIGHT_PRECISION") or "auto",
        _flag("TILEWRIGHT_DETERMINISTIC", True),
        _flag("TILEWRIGHT_STRICT", False),
        _flag("TILEWRIGHT_PACK", True),
        "environment (TILEWRIGHT_BACKEND, _PRECISION, _DETERMINISTIC, _STRICT, _PACK)",
    )


_defaults = _from_environment()
_current: ContextVar[Options] = ContextVar("tilewright_options", default=_defaults)

current = _current.get
"""The Options in force here."""


class applied:
    """Puts an Options object that was current elsewhere in force; a class, as that costs half a generator."""

    __slots__ = ("_options", "_token")

    def __init__(self, options: Options) -> None:
        self._options = options

    def __enter__(self) -> None:
        self._token = _current.set(self._options)

    def __exit__(self, *exc: object) -> None:
        _current.reset(self._token)


_UNSET: Any = object()


@contextmanager
def options(
    *,
    backend: str | None = _UNSET,
    config: Config | None = _UNSET,
    precision: Literal["auto", "ieee", "tf32"] = _UNSET,
    deterministic: bool = _UNSET,
    strict: bool = _UNSET,
    pack: bool = _UNSET,
) -> Iterator[Options]:
    """Steers every tilewright call inside the ``with`` block; what is not named stays as it was outside.

    Args:
        backend: run on this backend (``"cpu"``, ``"triton"``, ``"cuda"``, ``"aten"``, ``"reference"``); None
            chooses. Where it cannot run a problem, the call falls back to a choice and warns once, or with
            `strict` raises.
        config: with `backend`, run exactly this config.
        precision: for fp32 operands, ``"ieee"``, ``"tf32"`` (admits tf32 matrix units of CUDA devices, and for
            convolutions Winograd's algorithm, whose error is no larger), or ``"auto"``: on CUDA devices what
            ``torch.backends.cuda.matmul.fp32_precision`` or ``torch.backends.cudnn.conv.fp32_precision`` says, on
            CPUs ``"ieee"``.
        deterministic: False admits kernels whose result may differ in the last bits from run to run.
        strict: raise where a call would otherwise fall back with a warning.
        pack: False keeps the layers of `tilewright.nn` from packing their weights, which takes memory.

    The settings live in a context variable: other threads and other asyncio tasks do not see them. Defaults
    come from ``TILEWRIGHT_BACKEND``, ``TILEWRIGHT_PRECISION``, ``TILEWRIGHT_DETERMINISTIC``, ``TILEWRIGHT_STRICT``,
    ``TILEWRIGHT_PACK``.

    Raises:
        ArgumentError: a value that is none of the above.
    """
    outer = _current.get()
    inner_backend = outer.backend if backend is _UNSET else backend
    inner_config = config
    if config is _UNSET:
        # Another backend's config would make no sense.
        inner_config = outer.config if inner_backend == outer.backend else None
    inner = _checked(
        inner_backend,
        inner_config,
        outer.precision if precision is _UNSET else precision,
        outer.deterministic if deterministic is _UNSET else deterministic,
        outer.strict if strict is _UNSET else strict,
        outer.pack if pack is _UNSET else pack,
        "options",
    )
    token = _current.set(inner)
    try:
        yield inner
    finally:
        _current.reset(token)
