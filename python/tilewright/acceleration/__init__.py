"""Models whose layers run tilewright's kernels in inference, and do what they did.

>>> fast = tilewright.accelerate(model.eval())                    # a copy
>>> fast = tilewright.accelerate(model.eval(), example, tune=True)  # measured, and tuned for this machine
>>> print(fast.tilewright_report)
>>> tilewright.restore(fast)                                      # the modules are what they were
"""

from tilewright.acceleration.accelerate import accelerate, restore
from tilewright.acceleration.report import Entry, Report

__all__ = ["Entry", "Report", "accelerate", "restore"]
