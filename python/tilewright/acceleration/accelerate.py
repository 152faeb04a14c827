"""``accelerate`` and ``restore``."""

from __future__ import annotations

import copy
import warnings
import weakref
from typing import Any, TypeVar

import torch

from tilewright.acceleration.chains import chains_of, in_training, may_follow, names_of, sites_of, unreadable
from tilewright.acceleration.flow import child
from tilewright.acceleration.fused import ACTIVATIONS, NORMS, Fused, activation_of
from tilewright.acceleration.report import Entry, Report
from tilewright.acceleration.swap import (
    is_accelerated,
    is_layer,
    make_plain,
    obstacle,
    read_past_forward,
    swap,
    swap_back,
    swapped,
    target_of,
)
from tilewright.errors import ArgumentError

Model = TypeVar("Model", bound=torch.nn.Module)

_REPORT = "tilewright_report"
_restored: weakref.WeakSet[torch.nn.Module] = weakref.WeakSet()


def accelerate(
    model: Model, example_inputs: Any = None, *, inplace: bool = False, tune: bool = False
) -> Model:
    """Puts tilewright's layers in the place of a model's, for inference; the model computes what it did.

    Every ``torch.nn.Conv2d`` and ``torch.nn.Linear``, and Hugging Face's ``Conv1D``, becomes the layer of
    `tilewright.nn`. Where a layer's result goes to a BatchNorm2d (BatchNorm1d after Linear), to a ReLU, GELU or SiLU,
    or to a BatchNorm and then one of these, and certainly to nothing else, the layer computes that too, and these
    modules hand its result on as it is. That happens where no gradient is wanted (``torch.no_grad``,
    ``torch.inference_mode``, frozen parameters) and nobody watches (hooks, tracing, compiling); else, in training say,
    every module does its own work. A BatchNorm is folded, from its running statistics, into the packed weight, on CPUs.

    No ``forward`` is changed. The modules stay the same objects and become subclasses of what they were, so that names,
    parameters, state_dict, optimizers, tied and shared modules, deepcopy and pickle are the model's own, in both
    directions. What follows what is read from the source of the forward methods (``self.relu(self.bn(self.conv(x)))``,
    or one statement each) and from `torch.nn.Sequential`, and checked again by every call. Left as they are: modules
    with hooks, parametrizations or pruning, subclasses, and layers that attention modules of torch read past.

    Args:
        model: any module.
        example_inputs: what to call the model with: a tensor, a tuple or list of arguments, or a dictionary of keyword
            arguments. The model is then run before and after, its outputs are compared, each layer is timed on inputs
            of the sizes that it gets, and only what is faster is kept. The convolutions' weights are laid out in
            channels_last where that is faster and leaves the outputs' strides as they were.
        inplace: changes `model` itself rather than a deep copy of it.
        tune: tunes each layer's problems first (`tilewright.tune`); takes `example_inputs`.

    Returns:
        The model, with ``model.tilewright_report``: what became of each layer and why. A model that was accelerated
        before is restored first.

    What is packed and folded takes up to twice the memory of the weights again (``layer.packed_bytes()``,
    ``tilewright.options(pack=False)``).

    Outputs differ from the original's by rounding only: sums run in another order, and what was folded or fused is
    rounded once where it was rounded several times.

    Warns:
        UserWarning: BatchNorms are in training mode, where folding would be wrong; they are left as they are.

    Raises:
        ArgumentError: `model` is no module or a ScriptModule, or cannot be copied; `tune` without `example_inputs`;
            `example_inputs` of another type; with them, the outputs differ (the model is then as it was).
    """
    _check(model, example_inputs, tune)
    from tilewright.acceleration import measure  # not needed to import the package

    call = None if example_inputs is None else measure.call_of(example_inputs)
    # Copied in inference mode, parameters would be tensors whose writes torch does not count: no weight is packed then.
    with torch.inference_mode(False):
        return _accelerated(model, call, inplace, tune)


def restore(model: Model) -> Model:
    """Undoes `accelerate`, in place: every module is of the class that it was, with the parameters that it has now.

    Modules and parameters are the same objects as ever; values, and with them the strides, are bit for bit what they
    were unless somebody has changed them since. A model that was restored already is returned as it is.

    Raises:
        ArgumentError: the model was never accelerated.
    """
    if not isinstance(model, torch.nn.Module):
        raise ArgumentError(f"restore: model is a {type(model).__name__}; expected a torch.nn.Module")
    with torch.inference_mode(False):  # weights that are laid out anew stay ordinary tensors
        undone = _undo(model)
    if not undone and model not in _restored:
        raise ArgumentError(
            f"restore: model, a {type(model).__name__}, was not accelerated; expected what tilewright.accelerate "
            "returned (of a copy, unless inplace=True)"
        )
    _restored.add(model)
    return model


def _accelerated(model: Model, call: Any, inplace: bool, tune: bool) -> Model:
    if not inplace:
        try:
            model = copy.deepcopy(model)
        except Exception as error:
            raise ArgumentError(
                f"accelerate: model cannot be copied ({type(error).__name__}: {error}); pass inplace=True"
            ) from error
    _undo(model)
    _restored.discard(model)
    if call is None:
        report = Report()
        training = _swap_layers(model)
        _describe(model, report)
    else:
        from tilewright.acceleration import measure

        before = measure.run(model, call)
        try:
            training = _swap_layers(model)
            report = measure.keep_what_is_faster(model, call, before, tune)
            _describe(model, report)
        except BaseException:
            _undo(model)
            raise
    _warn_of_training(training)
    model.__dict__[_REPORT] = report
    return model


def _check(model: Any, example_inputs: Any, tune: bool) -> None:
    if not isinstance(model, torch.nn.Module):
        raise ArgumentError(f"accelerate: model is a {type(model).__name__}; expected a torch.nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        raise ArgumentError(
            "accelerate: model is a ScriptModule, whose code is fixed; accelerate the module it was made from"
        )
    if tune and example_inputs is None:
        raise ArgumentError(
            "accelerate: tune is True, but there are no example_inputs; pass what to tune for"
        )


def _undo(model: torch.nn.Module) -> bool:
    """Whether there was something to undo."""
    modules = list(swapped(model))
    for module in modules:
        swap_back(module)
    reports = [module.__dict__.pop(_REPORT, None) for module in model.modules()]
    return bool(modules) or any(report is not None for report in reports)


# --- what is swapped ----------------------------------------------------------------------------------------------


def _swap_layers(model: torch.nn.Module) -> set[torch.nn.Module]:
    """Swaps every layer that can be, and the BatchNorms and activations that follow one.

    Returns the BatchNorms that follow one too, but are in training mode.
    """
    closed = read_past_forward(model)
    modules = list(model.modules())
    for module in modules:
        if is_layer(module) and module not in closed and obstacle(module) is None:
            target = target_of(module)
            assert target is not None
            swap(module, target)
    followed: set[torch.nn.Module] = set()
    training: set[torch.nn.Module] = set()
    for layer, owner, paths in list(sites_of(modules)):
        for path in paths:
            follower = child(owner, path)
            if path is paths[0] and in_training(layer, follower):
                training.add(follower)
            if not may_follow(layer, follower) or follower in closed:
                break
            followed.add(layer)
            kind = type(follower)
            if kind in ACTIVATIONS or kind in NORMS:
                swap(follower, (ACTIVATIONS | NORMS)[kind])
            if activation_of(follower) is not None:
                break
    for module in modules:
        if isinstance(module, Fused) and module not in followed:
            make_plain(module)
    return training


def _warn_of_training(norms: set[torch.nn.Module]) -> None:
    if norms:
        warnings.warn(
            f"accelerate: {len(norms)} BatchNorm modules are in training mode, where folding them would be wrong; "
            "they are left as they are; for inference call model.eval() first",
            UserWarning,
            stacklevel=4,
        )


# --- what is said of it -------------------------------------------------------------------------------------------


def _describe(model: torch.nn.Module, report: Report) -> None:
    """Fills in an entry for each layer; gains and reasons that were measured are in the report already."""
    measured = {entry.layer: entry for entry in report.entries}
    report.entries.clear()
    closed = read_past_forward(model)
    chains = chains_of(model)
    report.notes += unreadable(model)
    for module, name in names_of(model).items():
        if not is_layer(module):
            continue
        before = [type(module).__name__]
        known = measured.get(name)
        if not is_accelerated(module):
            reason = closed.get(module) or (obstacle(module) if known is None else known.note)
            report.entries.append(Entry(name, before[0], None, known.gain if known else None, reason or ""))
            continue
        found = chains.get(module, [()])
        chain = found[0] if len(found) == 1 else ()
        before += [type(follower).__name__ for follower in chain]
        activation = activation_of(chain[-1]) if chain else None
        after = f"tilewright.nn.{before[0]}" + (f"({activation})" if activation else "")
        note = "" if len(found) == 1 else "called in several places, which it serves differently"
        if known is not None and not note and module.packing().startswith("not packed"):
            note = module.packing()
        report.entries.append(Entry(name, " + ".join(before), after, known.gain if known else None, note))
