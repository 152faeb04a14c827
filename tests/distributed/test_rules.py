"""What torch is told, looked at without any process but this one."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest
import torch

from tilewright.after_import import after_import

_RULES = """
import sys, torch
{imports}
from torch.distributed.tensor import DTensor
known = DTensor._op_dispatcher.sharding_propagator.op_strategy_funcs
missing = [str(operation) for operation in tilewright.decomposition_table() if operation not in known]
assert tilewright.decomposition_table() and not missing, missing
"""


@pytest.mark.parametrize(
    "imports",
    [
        "import tilewright; assert 'torch.distributed.tensor' not in sys.modules",
        "import torch.distributed.tensor; import tilewright",
    ],
)
def test_torch_knows_the_rules_whoever_is_imported_first(imports: str) -> None:
    command = [sys.executable, "-c", _RULES.format(imports=imports)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_rules_of_a_linear_layer() -> None:
    from torch.distributed.tensor import Partial, Replicate, Shard

    from tilewright.distributed.sharding import matmul_rules

    whole, rows, columns, sums = Replicate(), Shard(0), Shard(1), Partial()
    x, weight, bias = torch.empty(4, 8), torch.empty(8, 6), torch.empty(6)
    linear = matmul_rules(x, weight, bias)
    assert linear == [
        ([whole], [whole, whole, whole]),
        ([rows], [rows, whole, whole]),
        ([sums], [columns, rows, sums]),
        ([columns], [whole, columns, rows]),
    ]
    assert matmul_rules(x, weight, bias, None, "relu") == [rule for rule in linear if rule[0] != [sums]]


def test_rules_of_a_sparse_layer() -> None:
    from torch.distributed.tensor import Replicate, Shard

    from tilewright.distributed.sharding import sparse_matmul_rules

    whole, rows, columns = Replicate(), Shard(0), Shard(1)
    x, bias, residual = torch.empty(4, 8), torch.empty(6), torch.empty(1, 6)
    bits, row, values = torch.empty(6, 1), torch.empty(7), torch.empty(9)
    assert sparse_matmul_rules("bitmap", x, bits, row, values, bias, residual) == [
        ([whole], [whole] * 6),
        ([rows], [rows, whole, whole, whole, whole, whole]),
    ]
    crow, col, blocks = torch.empty(3), torch.empty(2), torch.empty(2, 3, 4)
    assert sparse_matmul_rules("bsr", x, crow, col, blocks, 6) == [
        ([whole], [whole] * 4),
        ([rows], [rows, whole, whole, whole]),
    ]
    values, indices = torch.empty(6, 4), torch.empty(6, 1)
    assert sparse_matmul_rules("2:4", x, values, indices, bias, residual, "relu") == [
        ([whole], [whole] * 5),
        ([rows], [rows, whole, whole, whole, whole]),
        ([columns], [whole, rows, rows, rows, columns]),
    ]


def test_after_import_acts_once_and_at_once_if_loaded(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "waited_for.py").write_text("value = 1\n")  # type: ignore[operator]
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "waited_for", raising=False)
    seen: list[tuple[str, int]] = []

    def act(name: str) -> object:
        return lambda module: seen.append((name, module.value))

    after_import("waited_for", act("first"))  # type: ignore[arg-type]
    after_import("waited_for", act("second"))  # type: ignore[arg-type]
    assert not seen
    import waited_for  # type: ignore[import-not-found]

    assert isinstance(waited_for, ModuleType)
    assert seen == [("first", 1), ("second", 1)]
    after_import("waited_for", act("third"))  # type: ignore[arg-type]
    assert seen[2:] == [("third", 1)]
    del sys.modules["waited_for"]
    import waited_for

    assert len(seen) == 3
