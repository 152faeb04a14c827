"""How much a weight matters: by its size, or by its size times that of what it is multiplied by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tilewright.errors import ArgumentError, DtypeError, ShapeError
from tilewright.sparse.targets import Target, find_targets

Score = str | Callable[[Tensor], Tensor] | Mapping[str, Tensor]
"""``"magnitude"``, ``"wanda"``, a function of a weight, or the scores of each weight by its name."""

Scorer = Callable[[Target], Tensor]


def wanda_scores(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    weights: Iterable[str] | None = None,
    skip: Iterable[str] = (),
) -> dict[str, Tensor]:
    """The scores of "Wanda" (Sun et al. 2023, arXiv:2306.11695) for each weight, from the inputs that it meets::

        score[o, i] = |weight[o, i]|·‖x[:, i]‖₂        over all rows x that the layer gets from the batches

    For a convolution x are the patches it sums over, so each kernel position has a norm of its own (pixels outside the
    image are as its padding mode has them).

    Args:
        model: run in evaluation mode without gradients; afterwards its modes are what they were.
        batches: what it is called with: a tensor, a tuple of positional or a dict of keyword arguments each. A hundred
            samples do.
        weights, skip: which weights, as in `prune`.

    Returns:
        Scores by name, in fp32 (float64 for weights in float64), each of its weight's shape.

    Raises:
        ArgumentError: there is no batch, or a layer is not called (its weight is read past it, as torch's
            MultiheadAttention does with its out_proj: name it in `skip`).
    """
    targets = find_targets(model, "wanda_scores", weights, skip)
    norms = input_norms(model, targets, batches, "wanda_scores")
    return {target.name: _wanda(norms, target) for target in targets}


def scorer(
    score: Score, where: nn.Module | Tensor, targets: Sequence[Target], batches: Iterable[Any] | None
) -> Scorer:
    """The function that gives a target's scores: of the weight's shape, fp32 or float64, finite.

    Raises:
        ArgumentError: `score` is none of `Score`, or `batches` is missing or superfluous.
    """
    if (score == "wanda") is not (batches is not None):
        needed = "needs batches to run the model on" if score == "wanda" else "looks at no batches"
        raise ArgumentError(
            f"prune: score={score!r} {needed}; pass batches=[...] with score='wanda', and only with it"
        )
    if score == "wanda":
        if not isinstance(where, nn.Module):
            raise ArgumentError(
                "prune: score='wanda' needs a module to run the batches through; pass the layer, or the scores "
                "themselves as a function"
            )
        norms = input_norms(where, targets, batches or (), "prune")
        return partial(_checked, partial(_wanda, norms))
    if score == "magnitude":
        return partial(_checked, _magnitude)
    if isinstance(score, Mapping):
        return partial(_checked, partial(_looked_up, score))
    if callable(score):
        function = score
        return partial(_checked, lambda target: function(target.weight))
    raise ArgumentError(
        f"prune: score is {score!r}; expected 'magnitude', 'wanda', a function of a weight, or scores by name"
    )


def input_norms(
    model: nn.Module, targets: Sequence[Target], batches: Iterable[Any], operation: str
) -> dict[str, Tensor]:
    """‖x‖₂ of the input that each weight is multiplied by, to broadcast with the weight."""
    squares: dict[str, Tensor] = {}

    def watch(target: Target) -> Callable[..., None]:
        def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = args[0] if args else kwargs.get("input", kwargs.get("x"))
            if not isinstance(x, Tensor):
                raise ArgumentError(f"{operation}: {target.name} gets no tensor; name it in skip")
            found = _squares(module, target, x.detach())
            if target.name in squares:
                squares[target.name] += found
            else:
                squares[target.name] = found

        return look

    modes = {module: module.training for module in model.modules()}
    handles = []
    count = 0
    try:
        for target in targets:
            if target.module is None or target.attribute != "weight":
                raise ArgumentError(f"{operation}: {target.name} is no layer's weight; name it in skip")
            handles.append(target.module.register_forward_pre_hook(watch(target), with_kwargs=True))
        model.eval()
        with torch.no_grad():
            for count, batch in enumerate(batches, start=1):  # noqa: B007 read after the loop
                if isinstance(batch, Mapping):
                    model(**batch)
                elif isinstance(batch, tuple | list):
                    model(*batch)
                else:
                    model(batch)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    if count == 0:
        raise ArgumentError(f"{operation}: batches is empty; expected inputs to run the model on")
    missed = [target.name for target in targets if target.name not in squares]
    if missed:
        raise ArgumentError(
            f"{operation}: {', '.join(missed)} met no input: no call of its layer; name it in skip, or use "
            "score='magnitude'"
        )
    return {name: total.sqrt() for name, total in squares.items()}


def _squares(module: nn.Module, target: Target, x: Tensor) -> Tensor:
    """The sums of squares of the inputs, in float64, to broadcast with the weight."""
    weight = target.weight
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return _patch_squares(module, x, weight.shape)
    inputs = weight.shape[0 if target.transposed else 1]
    # Rows are squared in fp32 at least: in half precision squares overflow.
    rows = x.reshape(-1, inputs).to(torch.promote_types(x.dtype, torch.float32))
    total = rows.square().sum(0, dtype=torch.float64)
    return total[:, None] if target.transposed else total


def _patch_squares(module: nn.Conv1d | nn.Conv2d | nn.Conv3d, x: Tensor, shape: torch.Size) -> Tensor:
    """Of a convolution: what each kernel position meets of each input channel."""
    dims = len(shape) - 2
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    images = wide.reshape(-1, *x.shape[-dims - 1 :])
    edges = _padding(module, shape)
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    if mode != "constant":
        images = nn.functional.pad(images, edges, mode=mode)
    # Where nothing but zeros is added the squares are: one image is left to be padded.
    total = images.square().sum(0, dtype=torch.float64)
    if mode == "constant":
        total = nn.functional.pad(total, edges)
    for dim in range(dims):
        kernel, step, gap = shape[2 + dim], module.stride[dim], module.dilation[dim]
        axis = 1 + dim
        reach = total.shape[axis] - gap * (kernel - 1)
        taps = [total.narrow(axis, tap * gap, reach) for tap in range(kernel)]
        places = torch.arange(0, reach, step, device=x.device)
        # Sums over an axis leave room for the kernel's positions along it, in the same place.
        total = torch.stack([tap.index_select(axis, places).sum(axis) for tap in taps], axis)
    groups = module.groups
    per_group = total.reshape(groups, shape[1], *shape[2:])
    return per_group if groups == 1 else per_group.repeat_interleave(shape[0] // groups, 0)


def _padding(module: nn.Conv1d | nn.Conv2d | nn.Conv3d, shape: torch.Size) -> list[int]:
    """As `torch.nn.functional.pad` takes it: from the last dimension to the first, before and after each."""
    edges: list[int] = []
    for dim in reversed(range(len(shape) - 2)):
        if module.padding == "same":
            both = module.dilation[dim] * (shape[2 + dim] - 1)
            edges += [both // 2, both - both // 2]
        elif module.padding == "valid":
            edges += [0, 0]
        else:
            size = module.padding[dim]
            assert isinstance(size, int)
            edges += [size, size]
    return edges


def _magnitude(target: Target) -> Tensor:
    return target.weight.detach().abs()


def _wanda(norms: Mapping[str, Tensor], target: Target) -> Tensor:
    weight = target.weight.detach().abs()
    weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
    return weight * norms[target.name].to(weight.device, weight.dtype)


def _looked_up(scores: Mapping[str, Tensor], target: Target) -> Tensor:
    if target.name not in scores:
        raise ArgumentError(
            f"prune: score has no {target.name}; expected scores for every weight by its name"
        )
    return scores[target.name]


def _checked(score: Scorer, target: Target) -> Tensor:
    """What the score gives, made sure to be scores."""
    weight = target.weight
    with torch.no_grad():
        found = score(target)
    if not isinstance(found, Tensor) or found.shape != weight.shape:
        got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"type {type(found).__name__}"
        raise ShapeError(
            f"prune: score of {target.name} has {got}; expected a tensor of the weight's shape {tuple(weight.shape)}"
        )
    if found.is_complex():
        raise DtypeError(f"prune: score of {target.name} has dtype {found.dtype}; expected real numbers")
    wide = found.detach().to(weight.device)
    if wide.dtype != torch.float64:
        wide = wide.to(torch.float64 if wide.dtype in (torch.int32, torch.int64) else torch.float32)
    if not bool(wide.isfinite().all()):
        raise ArgumentError(f"prune: score of {target.name} has NaN or infinity; expected finite numbers")
    return wide
