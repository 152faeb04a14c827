"""How a choice of kernel is made, measured and kept.

``select`` chooses without measuring; ``tune_problems`` measures; ``recording`` collects the problems that a
function meets; ``device`` describes where they run and ``measure`` probes it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tilewright.tuner import device, recorder
from tilewright.tuner.probe import measure
from tilewright.tuner.recorder import recording
from tilewright.tuner.select import Candidate, Choice, candidates, select

if TYPE_CHECKING:
    from tilewright.tuner.search import TuneResult
    from tilewright.tuner.tune import TuneReport, tune_problems

__all__ = [
    "Candidate",
    "Choice",
    "TuneReport",
    "TuneResult",
    "candidates",
    "device",
    "measure",
    "recorder",
    "recording",
    "select",
    "tune_problems",
]

# The search is imported when somebody tunes.
_LATER = {"TuneResult": "search", "TuneReport": "tune", "tune_problems": "tune"}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"{__name__}.{_LATER[name]}"), name)
    globals()[name] = found
    return found
