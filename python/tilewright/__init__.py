"""tilewright: hand-written, autotuned kernels for PyTorch.

>>> y = tilewright.linear(x, weight, bias, activation="relu")     # in place of relu(F.linear(...))
>>> print(tilewright.explain(tilewright.linear, x, weight, bias, activation="relu"))
>>> fast = tilewright.accelerate(model.eval(), example)           # its layers and their followers, where faster
>>> tilewright.tune(model, example)                               # measure once, on this machine
"""

from typing import TYPE_CHECKING, Any

from tilewright import compiler, distributed, errors, nn
from tilewright.acceleration import accelerate, restore
from tilewright.errors import Error
from tilewright.explain import explain
from tilewright.export import decompose
from tilewright.ops import conv2d, conv2d_relu, decomposition_table, linear, matmul, sparse_matmul
from tilewright.settings import options
from tilewright.tuning import tune, tuning
from tilewright.version import __version__

if TYPE_CHECKING:
    from tilewright import sparse

__all__ = [
    "Error",
    "__version__",
    "accelerate",
    "compiler",
    "conv2d",
    "conv2d_relu",
    "decompose",
    "decomposition_table",
    "distributed",
    "errors",
    "explain",
    "linear",
    "matmul",
    "nn",
    "options",
    "restore",
    "sparse",
    "sparse_matmul",
    "tune",
    "tuning",
]


def __getattr__(name: str) -> Any:
    """Submodules that are imported when first asked for, so that importing tilewright stays short."""
    if name == "sparse":
        from importlib import import_module

        return import_module("tilewright.sparse")
    raise AttributeError(f"module 'tilewright' has no attribute {name!r}")
