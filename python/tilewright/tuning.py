"""``tilewright.tune`` and ``with tilewright.tuning():`` — the only calls that measure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tilewright import dispatch, tuner


def tune(
    fn_or_model: Callable[..., Any],
    *inputs: Any,
    budget_s: float | None = None,
    progress: bool = True,
    **keywords: Any,
) -> tuner.TuneReport:
    """Finds the fastest kernel on this machine for every tilewright call that a function or model makes.

    ``fn_or_model(*inputs, **keywords)`` is called once to collect the problems; each distinct one is then tuned:
    candidates are compared with the float64 reference on fresh random data, and only those that are right
    are timed. Winners go to the user's store (``TILEWRIGHT_CACHE_DIR``) and are used from the next call on,
    in this process and later ones. Gradients are tuned if the function runs a backward pass.

    Args:
        fn_or_model: anything callable.
        *inputs, **keywords: what to call it with.
        budget_s: seconds to spend per problem at most.
        progress: show a progress bar (with rich installed) or log lines.

    Returns:
        A report that prints as a table: problem, winner, time, and the ratio to the best of torch.

    Raises:
        TuningError: no candidate survived for a problem.
    """
    with tuning(budget_s=budget_s, progress=progress) as session:
        fn_or_model(*inputs, **keywords)
    return session.report


class Session:
    """What `tuning` yields; `report` is there once the block has ended."""

    def __init__(self) -> None:
        self._report: tuner.TuneReport | None = None

    @property
    def report(self) -> tuner.TuneReport:
        if self._report is None:
            raise RuntimeError("tuning: the report is read inside the block; it is made when the block ends")
        return self._report


@contextmanager
def tuning(*, budget_s: float | None = None, progress: bool = True) -> Iterator[Session]:
    """Collects the problems of every tilewright call inside the block, and tunes them when it ends.

    The calls inside run with the choices that were in force before. Arguments as for `tune`. If the block
    raises, nothing is tuned.
    """
    session = Session()
    # What was resolved before would not be seen again.
    dispatch.forget()
    with tuner.recording() as problems:
        yield session
    try:
        session._report = tuner.tune_problems(problems, budget_s=budget_s, progress=progress)
    finally:
        dispatch.forget()
