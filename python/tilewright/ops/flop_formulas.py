"""FLOP formulas for torch's counter. ``torch.utils.flop_counter`` imports Triton, 0.2 s of it, so it is not imported
here: the formulas are handed over when somebody else imports it."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from tilewright.after_import import after_import

_formulas: dict[Any, Callable[..., int]] = {}


def add(packet: Any, formula: Callable[..., int]) -> None:
    """Notes the formula of ``torch.ops.tilewright.<operation>``; it gets the operation's arguments and ``out_val``."""
    _formulas[packet] = formula


def install() -> None:
    """Hands the noted formulas to torch now if its counter is loaded, else as soon as it is."""
    after_import("torch.utils.flop_counter", _register)


def _register(flop_counter: ModuleType) -> None:
    for packet, formula in _formulas.items():
        if packet not in flop_counter.flop_registry:
            flop_counter.register_flop_formula(packet, get_raw=True)(formula)
