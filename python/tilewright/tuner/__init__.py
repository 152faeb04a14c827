"""How a choice of kernel is made, measured and kept.

``select`` chooses without measuring; ``tune_problems`` measures; ``recording`` collects the problems that a
function meets; ``device`` describes where they run.
"""

from tilewright.tuner import device, recorder
from tilewright.tuner.recorder import recording
from tilewright.tuner.select import Candidate, Choice, candidates, select

__all__ = ["Candidate", "Choice", "candidates", "device", "recorder", "recording", "select"]
