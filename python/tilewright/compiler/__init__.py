"""``torch.compile(model, backend="tilewright")``: products and convolutions with what follows them in one kernel.

>>> compiled = torch.compile(model, backend="tilewright")                            # training and inference
>>> compiled = torch.compile(model.eval(), backend="tilewright", options={"freeze": True})   # inference, weights packed
>>> print(tilewright.compiler.report())                                              # what was fused, what not, why

The backend works on the graphs that AOTAutograd makes: forward, backward and inference alike they are functional, so
that nothing is written in place and nothing aliases. In them it finds ``conv2d`` and matrix products, takes the bias,
residual and activation that follow into the same tilewright operation, replaces the gradients of convolutions, and
leaves everything else to Inductor. A product for which torch's own kernel is expected to be faster stays as it is.

What was done is logged under ``tilewright.compiler`` too: ``TORCH_LOGS="tilewright"`` prints what was fused,
``TORCH_LOGS="+tilewright"`` also what was left, and why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tilewright.compiler.history import Report

__all__ = ["backend", "report", "reset"]

# torch._dynamo and torch._inductor take a second to import: only a compilation needs them.


def backend(
    gm: Any, example_inputs: Sequence[Any], *, options: dict[str, Any] | None = None, mode: str | None = None
) -> Callable[..., Any]:
    """Compiles a graph of Dynamo's; what ``torch.compile(model, backend="tilewright", options=...)`` calls.

    Args:
        gm, example_inputs: as Dynamo hands them to its backends.
        options: any of

            ``"rest"``: what runs the rest of the graph: ``"inductor"`` (default) or ``"eager"``, torch's operators
            as they are, which compiles quickly.

            ``"freeze"``: True is your word that in inference parameters and buffers are written only in ways that
            torch counts (optimizers, ``load_state_dict``, in-place operators; not ``.data``, not a NumPy view) or
            are replaced. Then BatchNorm is folded and weights are packed once, again after each such write. It takes
            about as much memory again as the weights. Graphs with gradients are compiled as without it.

            ``"fuse"``: ``"faster"`` (default) uses a tilewright operation where its kernels are expected to be
            faster than torch's, ``"always"`` wherever it can.

            Other names are Inductor's own options, as ``torch.compile(options=...)`` takes them.
        mode: Inductor's, as ``torch.compile(mode=...)`` takes it.

    Returns:
        What runs the graph. A fusion that fails is logged and left out; ``tilewright.options(strict=True)`` around
        the compilation raises instead.

    Raises:
        ArgumentError: an option that nobody knows, or a value that it does not take.
    """
    from tilewright.compiler.rests import compile_graph

    return compile_graph(gm, example_inputs, options, mode)


def report(*, clear: bool = False) -> Report:
    """What was fused in the graphs compiled last (64 at most), and what was left, with the reason.

    ``str`` and ``rich.print`` make a table of it, ``to_dict`` plain data. `clear` forgets them afterwards.
    """
    from tilewright.compiler import history

    return history.report(clear=clear)


def reset() -> None:
    """Forgets what `report` tells."""
    report(clear=True)
