"""Learning from the dense network what pruning lost."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from tilewright.errors import ArgumentError, DtypeError, ShapeError


def distill_loss(
    student: Tensor,
    teacher: Tensor,
    target: Tensor | None = None,
    *,
    temperature: float = 2.0,
    alpha: float = 0.5,
    task_loss: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy,
) -> Tensor:
    """What a pruned network is asked for beside its task: the answers of the dense one, softened::

        loss = alpha·T²·KL(softmax(teacher / T) ‖ softmax(student / T)) + (1 - alpha)·task_loss(student, target)

    The divergence is averaged over all positions but the classes; T² keeps its gradients as large as the task's
    whatever T (Hinton, Vinyals and Dean 2015, arXiv:1503.02531). It is computed in fp32 at least.

    Args:
        student, teacher: scores (..., classes) before a softmax, of one floating dtype each. No gradient flows into
            the teacher's; compute them under ``torch.no_grad()``.
        target: what `task_loss` takes, given the student's scores (positions, classes) and the target with its
            positions flattened likewise. None: the divergence alone, whole, whatever `alpha`.
        temperature: T. Higher shows the student more of what the teacher thinks of the wrong classes.
        alpha: the teacher's share of the loss.
        task_loss: by default the cross-entropy with class numbers (...), or with probabilities (..., classes).

    Returns:
        A scalar in fp32, in float64 where either of the scores is.

    Raises:
        ShapeError: the scores differ in shape, or have no classes. DtypeError: they are not floating.
        ArgumentError: `temperature` is not positive, or `alpha` is not from 0 to 1.
    """
    if student.shape != teacher.shape or student.dim() == 0 or student.shape[-1] == 0:
        raise ShapeError(
            f"distill_loss: student has shape {tuple(student.shape)} and teacher {tuple(teacher.shape)}; expected the "
            "same (..., classes) for both"
        )
    for name, scores in (("student", student), ("teacher", teacher)):
        if not scores.is_floating_point():
            raise DtypeError(f"distill_loss: {name} has dtype {scores.dtype}; expected floating scores")
    if not 0.0 < temperature < float("inf"):
        raise ArgumentError(f"distill_loss: temperature is {temperature}; expected a positive number")
    if not 0.0 <= alpha <= 1.0:
        raise ArgumentError(f"distill_loss: alpha is {alpha}; expected the teacher's share, from 0 to 1")
    classes = student.shape[-1]
    dtype = torch.float64 if torch.float64 in (student.dtype, teacher.dtype) else torch.float32
    scores = student.reshape(-1, classes).to(dtype)
    wanted = functional.log_softmax(teacher.detach().reshape(-1, classes).to(dtype) / temperature, -1)
    found = functional.log_softmax(scores / temperature, -1)
    # A class that the teacher rules out counts nothing, also where the student rules it out: 0·(inf - inf).
    terms = torch.where(wanted == -torch.inf, 0.0, wanted.exp() * (wanted - found))
    softened = terms.sum(-1).mean() * temperature**2
    if target is None:
        return softened
    positions = student.dim() - 1
    flat = target.reshape(-1, *target.shape[positions:])
    return alpha * softened + (1.0 - alpha) * task_loss(scores, flat)
