"""Every way we know to change a layer's weight or bias, counted by torch or not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.ops.layers import IN, OUT, ROWS, assert_right, layer
from tilewright.nn import Linear

HELD: list[Any] = []
"""What tests keep alive beyond the write, as a careless user would."""


def _numpy_held(module: Linear) -> None:
    array = module.weight.detach().numpy()
    assert_right(module, torch.ones(ROWS, IN))
    array[3, 5] = 7
    HELD.append(array)


def _parameter_held(module: Linear) -> None:
    weight = module.weight
    assert_right(module, torch.ones(ROWS, IN))
    weight.data[3, 5] += 7
    HELD.append(weight)


def _state_dict_held(module: Linear) -> None:
    state = module.state_dict()
    assert_right(module, torch.ones(ROWS, IN))
    state["weight"][3, 5] += 7
    HELD.append(state)


def _storage_held(module: Linear) -> None:
    storage = module.weight.untyped_storage()
    assert_right(module, torch.ones(ROWS, IN))
    torch.empty(0).set_(storage)[70] += 7  # type: ignore[call-overload]
    HELD.append(storage)


def _iterator_held(module: Linear) -> None:
    parameters = module.named_parameters()
    next(parameters)[1].data[3, 5] += 7
    assert_right(module, torch.ones(ROWS, IN))
    HELD.append(parameters)


def _dictionary_held(module: Linear) -> None:
    parameters = module._parameters
    assert_right(module, torch.ones(ROWS, IN))
    weight = parameters["weight"]
    assert weight is not None
    weight.data[3, 5] += 7
    HELD.append(parameters)


def _shallow_copy_held(module: Linear) -> None:
    other = copy.copy(module)
    assert_right(module, torch.ones(ROWS, IN))
    other.weight.data[3, 5] += 7
    assert_right(other, torch.ones(ROWS, IN))
    HELD.append(other)


def _shallow_copy_dropped(module: Linear) -> None:
    copy.copy(module).weight.data[3, 5] += 7


def _tied(module: Linear) -> None:
    other = layer()
    other.weight = module.weight
    assert_right(module, torch.ones(ROWS, IN))
    other.weight.data[3, 5] += 7
    assert_right(other, torch.ones(ROWS, IN))
    HELD.append(other)


def _in_place(module: Linear) -> None:
    with torch.no_grad():
        module.weight[3, 5] += 7


def _in_place_in_inference_mode(module: Linear) -> None:
    with torch.inference_mode():
        module.weight[3, 5] += 7


def _dlpack(module: Linear) -> None:
    torch.from_dlpack(module.weight.detach())[3, 5] += 7


def _parameters(module: Linear) -> None:
    for parameter in module.parameters():
        parameter.data.add_(1)


def _vector(module: Linear) -> None:
    vector = torch.nn.utils.parameters_to_vector(module.parameters())
    torch.nn.utils.vector_to_parameters(2 * vector, module.parameters())


def _swap(module: Linear) -> None:
    torch.utils.swap_tensors(module.weight, torch.nn.Parameter(torch.randn(OUT, IN)))


def _set(name: str, value: Callable[[], Any]) -> Callable[[Linear], None]:
    return lambda module: setattr(module, name, value())


def _set_data(name: str, value: Callable[[], Tensor]) -> Callable[[Linear], None]:
    return lambda module: setattr(getattr(module, name), "data", value())


def _edit(module: Linear) -> None:
    module.weight.data[3, 5] += 7


def _edit_numpy(module: Linear) -> None:
    module.weight.detach().numpy()[3, 5] += 7


def _behind_the_modules_back(module: Linear) -> None:
    dict.__setitem__(vars(module)["_parameters"], "weight", torch.nn.Parameter(torch.randn(OUT, IN)))


def _behind_the_modules_back_and_held(module: Linear) -> None:
    HELD.append(dict.__getitem__(vars(module)["_parameters"], "weight"))
    dict.__setitem__(vars(module)["_parameters"], "weight", torch.nn.Parameter(torch.randn(OUT, IN)))


def _memory_behind_the_modules_back(module: Linear) -> None:
    dict.__getitem__(vars(module)["_parameters"], "weight").data = torch.randn(OUT, IN)


def _iterator_begun_before(module: Linear) -> None:
    pairs = iter(module._parameters.items())
    assert_right(module, torch.ones(ROWS, IN))
    for name, parameter in pairs:
        if name == "weight" and parameter is not None:
            parameter.data[3, 5] += 7


def _taken_out_and_put_back(module: Linear) -> None:
    weight = module._parameters.pop("weight")
    module._parameters["weight"] = weight
    assert weight is not None
    weight.data[3, 5] += 7


def _edit_each(values: Callable[[Any], Any]) -> Callable[[Linear], None]:
    """Writes to what `values` takes from the dictionary of parameters, keeping none of it."""

    def edit(module: Linear) -> None:
        for parameter in values(vars(module)["_parameters"]):
            parameter.data += 7

    return edit


WRITES: dict[str, Callable[[Linear], Any]] = {
    "in place": _in_place,
    "in place in inference mode": _in_place_in_inference_mode,
    "one element through .data": _edit,
    "one element through NumPy": _edit_numpy,
    "one element through DLPack": _dlpack,
    "all through .data": lambda module: module.weight.data.mul_(2),
    "parameters()": _parameters,
    "vector_to_parameters": _vector,
    "load_state_dict": lambda module: module.load_state_dict(layer().state_dict()),
    "load_state_dict, assigned": lambda module: module.load_state_dict(layer().state_dict(), assign=True),
    "another weight": _set("weight", lambda: torch.nn.Parameter(torch.randn(OUT, IN))),
    "another weight's data": _set_data("weight", lambda: torch.randn(OUT, IN)),
    "another bias": _set("bias", lambda: torch.nn.Parameter(torch.randn(OUT))),
    "no bias": _set("bias", lambda: None),
    "another bias's data": _set_data("bias", lambda: torch.randn(OUT)),
    "a strided bias": _set_data("bias", lambda: torch.randn(2 * OUT)[::2]),
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
