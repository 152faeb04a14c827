"""Every way we know to change a layer's weight or bias, counted by torch or not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.ops.layers import assert_right, element, inputs, like
from tilewright.holders import weight_of
from tilewright.nn import PackedLayer

HELD: list[Any] = []
"""What tests keep alive beyond the write, as a careless user would."""


def _call(module: PackedLayer) -> None:
    assert_right(module, inputs(module, torch.ones))


def _other_weight(module: PackedLayer) -> torch.nn.Parameter:
    return torch.nn.Parameter(_other_data(module))


def _other_data(module: PackedLayer) -> Tensor:
    return torch.randn(weight_of(module).shape)


def _other_bias(module: PackedLayer) -> Tensor:
    return torch.randn(len(module.bias))


def _numpy_held(module: PackedLayer) -> None:
    array = module.weight.detach().numpy()
    _call(module)
    array[element(module)] = 7
    HELD.append(array)


def _parameter_held(module: PackedLayer) -> None:
    weight = module.weight
    _call(module)
    weight.data[element(module)] += 7
    HELD.append(weight)


def _state_dict_held(module: PackedLayer) -> None:
    state = module.state_dict()
    _call(module)
    state["weight"][element(module)] += 7
    HELD.append(state)


def _storage_held(module: PackedLayer) -> None:
    storage = module.weight.untyped_storage()
    _call(module)
    torch.empty(0).set_(storage)[50] += 7  # type: ignore[call-overload]
    HELD.append(storage)


def _iterator_held(module: PackedLayer) -> None:
    parameters = module.named_parameters()
    next(parameters)[1].data[element(module)] += 7
    _call(module)
    HELD.append(parameters)


def _dictionary_held(module: PackedLayer) -> None:
    parameters = module._parameters
    _call(module)
    weight = parameters["weight"]
    assert weight is not None
    weight.data[element(module)] += 7
    HELD.append(parameters)


def _shallow_copy_held(module: PackedLayer) -> None:
    other = copy.copy(module)
    _call(module)
    other.weight.data[element(module)] += 7
    _call(other)
    HELD.append(other)


def _shallow_copy_dropped(module: PackedLayer) -> None:
    copy.copy(module).weight.data[element(module)] += 7


def _tied(module: PackedLayer) -> None:
    other = like(module)
    other.weight = module.weight
    _call(module)
    other.weight.data[element(module)] += 7
    _call(other)
    HELD.append(other)


def _in_place(module: PackedLayer) -> None:
    with torch.no_grad():
        module.weight[element(module)] += 7


def _in_place_in_inference_mode(module: PackedLayer) -> None:
    with torch.inference_mode():
        module.weight[element(module)] += 7


def _dlpack(module: PackedLayer) -> None:
    torch.from_dlpack(module.weight.detach())[element(module)] += 7


def _parameters(module: PackedLayer) -> None:
    for parameter in module.parameters():
        parameter.data.add_(1)


def _vector(module: PackedLayer) -> None:
    if weight_of(module).is_contiguous():
        vector = torch.nn.utils.parameters_to_vector(module.parameters())
        torch.nn.utils.vector_to_parameters(2 * vector, module.parameters())
    else:  # which torch does not flatten
        _parameters(module)


def _swap(module: PackedLayer) -> None:
    torch.utils.swap_tensors(module.weight, _other_weight(module))


def _set(name: str, value: Callable[[PackedLayer], Any]) -> Callable[[PackedLayer], None]:
    return lambda module: setattr(module, name, value(module))


def _set_data(name: str, value: Callable[[PackedLayer], Tensor]) -> Callable[[PackedLayer], None]:
    return lambda module: setattr(getattr(module, name), "data", value(module))


def _edit(module: PackedLayer) -> None:
    module.weight.data[element(module)] += 7


def _edit_numpy(module: PackedLayer) -> None:
    module.weight.detach().numpy()[element(module)] += 7


def _behind_the_modules_back(module: PackedLayer) -> None:
    dict.__setitem__(vars(module)["_parameters"], "weight", _other_weight(module))


def _behind_the_modules_back_and_held(module: PackedLayer) -> None:
    HELD.append(dict.__getitem__(vars(module)["_parameters"], "weight"))
    dict.__setitem__(vars(module)["_parameters"], "weight", _other_weight(module))


def _memory_behind_the_modules_back(module: PackedLayer) -> None:
    dict.__getitem__(vars(module)["_parameters"], "weight").data = _other_data(module)


def _iterator_begun_before(module: PackedLayer) -> None:
    pairs = iter(module._parameters.items())
    _call(module)
    for name, parameter in pairs:
        if name == "weight" and parameter is not None:
            parameter.data[element(module)] += 7


def _taken_out_and_put_back(module: PackedLayer) -> None:
    weight = module._parameters.pop("weight")
    module._parameters["weight"] = weight
    assert weight is not None
    weight.data[element(module)] += 7


def _edit_each(values: Callable[[Any], Any]) -> Callable[[PackedLayer], None]:
    """Writes to what `values` takes from the dictionary of parameters, keeping none of it."""

    def edit(module: PackedLayer) -> None:
        for parameter in values(vars(module)["_parameters"]):
            parameter.data += 7

    return edit


WRITES: dict[str, Callable[[PackedLayer], Any]] = {
    "in place": _in_place,
    "in place in inference mode": _in_place_in_inference_mode,
    "one element through .data": _edit,
    "one element through NumPy": _edit_numpy,
    "one element through DLPack": _dlpack,
    "all through .data": lambda module: module.weight.data.mul_(2),
    "parameters()": _parameters,
    "vector_to_parameters": _vector,
    "load_state_dict": lambda module: module.load_state_dict(like(module).state_dict()),
    "load_state_dict, assigned": lambda module: module.load_state_dict(
        like(module).state_dict(), assign=True
    ),
    "another weight": _set("weight", _other_weight),
    "another weight's data": _set_data("weight", _other_data),
    "another bias": _set("bias", lambda module: torch.nn.Parameter(_other_bias(module))),
    "no bias": _set("bias", lambda module: None),
    "another bias's data": _set_data("bias", _other_bias),
    "a strided bias": _set_data("bias", lambda module: _other_bias(module).repeat(2)[::2]),
    "swap_tensors": _swap,
    "cast there and back": lambda module: module.bfloat16().float(),
    "shared memory": lambda module: module.share_memory(),
    "a held NumPy array": _numpy_held,
    "a held parameter": _parameter_held,
    "a held state_dict": _state_dict_held,
    "a held storage": _storage_held,
    "a held iterator": _iterator_held,
    "the held dictionary": _dictionary_held,
    "a held shallow copy": _shallow_copy_held,
    "a shallow copy": _shallow_copy_dropped,
    "a tied module": _tied,
    "an iterator that was begun before": _iterator_begun_before,
    "taken out and put back": _taken_out_and_put_back,
    "vars": _edit_each(lambda parameters: [parameters["weight"]]),
    "vars, get": _edit_each(lambda parameters: [parameters.get("weight")]),
    "vars, values": _edit_each(lambda parameters: parameters.values()),
    "vars, setdefault": _edit_each(lambda parameters: [parameters.setdefault("weight", None)]),
    "vars, copied": _edit_each(lambda parameters: parameters.copy().values()),
    "vars, as a dict": _edit_each(lambda parameters: dict(parameters).values()),
    "vars, unpacked": _edit_each(lambda parameters: {**parameters}.values()),
    "vars, united": _edit_each(lambda parameters: (parameters | {}).values()),
    "vars, united with": _edit_each(lambda parameters: ({} | parameters).values()),
    "vars, copy.copy": _edit_each(lambda parameters: copy.copy(parameters).values()),
    "behind the module's back": _behind_the_modules_back,
    "behind the module's back, the old one held": _behind_the_modules_back_and_held,
    "memory behind the module's back": _memory_behind_the_modules_back,
}
