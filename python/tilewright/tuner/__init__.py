"""How a choice of kernel is made, measured and kept.

``select`` chooses without measuring; ``tune_problems`` measures; ``recording`` collects the problems that a
function meets; ``device`` describes where they run and ``measure`` probes it.
"""

from tilewright.tuner import device, recorder
from tilewright.tuner.probe import measure
from tilewright.tuner.recorder import recording
from tilewright.tuner.search import TuneResult
from tilewright.tuner.select import Candidate, Choice, candidates, select
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
