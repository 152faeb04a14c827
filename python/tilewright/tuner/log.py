"""The package's logger, and warnings that are given once."""

from __future__ import annotations

import logging

logger = logging.getLogger("tilewright")

_MOST_REMEMBERED = 1000
_given: set[str] = set()


def warn_once(message: str, *, key: str | None = None) -> None:
    """Logs a warning the first time its key (by default its text) comes up in this process."""
    key = message if key is None else key
    if key in _given:
        return
    if len(_given) < _MOST_REMEMBERED:  # a server that meets ever new shapes must not grow without bound
        _given.add(key)
    logger.warning(message)
