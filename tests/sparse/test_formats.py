"""compress, SparseWeight and their conversions; the formats bit by bit."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from tilewright.errors import ArgumentError, DtypeError, FormatError, ShapeError
from tilewright.kernels.sparse_matmul.formats import BUFFERS
from tilewright.sparse import SparseWeight, compress


def _two_of_four(n: int, k: int) -> Tensor:
    groups = -(-k // 4)
    mask = torch.zeros(n, groups, 4).scatter(2, torch.rand(n, groups, 4).topk(2, 2).indices, 1)
    return torch.randn(n, k) * mask.view(n, 4 * groups)[:, :k]


def _sparse(n: int, k: int, density: float = 0.3) -> Tensor:
    return torch.randn(n, k) * (torch.rand(n, k) < density)


# --- bit by bit, as the README draws them ------------------------------------------------------------------------


def test_bits_of_a_bitmap() -> None:
    weight = torch.zeros(3, 66)
    weight[0, 0], weight[0, 63], weight[0, 65], weight[2, 5] = 1, 2, 3, 4
    stored = compress(weight, "bitmap")
    assert stored.names == ("bits", "row", "values")
    bits, row, values = stored.buffers
    assert bits.tolist() == [[1 - (1 << 63), 2], [0, 0], [1 << 5, 0]]
    assert (bits.dtype, row.dtype) == (torch.int64, torch.int32)
    assert row.tolist() == [0, 3, 3, 4]
    assert values.tolist() == [1, 2, 3, 4]


def test_bits_of_2to4() -> None:
    weight = torch.tensor([[0.0, 1, 0, 2, 3, 4, 0, 0, 0, 5], [6, 0, 0, 0, 0, 0, 0, 7, 8, 0]])
    values, indices = compress(weight, "2:4").buffers
    # Columns 1 3 | 0 1 | 0 1 and 0 1 | 0 3 | 0 1; a nibble is first | second << 2, two of them an octet.
    assert values.tolist() == [[1, 2, 3, 4, 0, 5], [6, 0, 0, 7, 8, 0]]
    assert indices.tolist() == [
        [(1 | 3 << 2) | (0 | 1 << 2) << 4, 1 << 2],
        [(0 | 1 << 2) | (0 | 3 << 2) << 4, 1 << 2],
    ]
    assert indices.dtype == torch.uint8


def test_blocks_of_bsr() -> None:
    weight = torch.zeros(3, 5)
    weight[0, 4], weight[2, 1] = 1, 2
    crow, col, values = compress(weight, "bsr", block=(2, 3)).buffers
    assert (crow.tolist(), col.tolist()) == ([0, 1, 2], [1, 0])
    assert (crow.dtype, col.dtype) == (torch.int32, torch.int32)
    assert values.tolist() == [[[0, 1, 0], [0, 0, 0]], [[0, 2, 0], [0, 0, 0]]]


# --- round trips -------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=150)
@given(
    st.integers(0, 40),
    st.integers(0, 140),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    st.integers(1, 33),
    st.integers(1, 33),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
)
def test_dense_round_trip(n: int, k: int, density: float, r: int, c: int, dtype: torch.dtype) -> None:
    weight = _sparse(n, k, density).to(dtype)
    for form, block in (("bitmap", None), ("bsr", (r, c)), ("2:4", None)):
        dense = _two_of_four(n, k).to(dtype) if form == "2:4" else weight
        stored = compress(dense, form, block=block)
        assert torch.equal(stored.to_dense(), dense)
        assert not bool((stored.to_dense() != 0)[~stored.kept()].any())
        assert torch.equal(stored.sample(dense).flatten(), stored.values.flatten())
        assert torch.equal(compress(stored, "bitmap").to_dense(), dense)
        again = SparseWeight(form, (n, k), stored.state(), stored.format_version)
        assert torch.equal(again.to_dense(), dense)


@pytest.mark.parametrize("layout", ["csr", "csc", "coo", "bsr", "bsc"])
@pytest.mark.parametrize(("form", "block"), [("bitmap", None), ("bsr", (4, 8))])
def test_torchs_sparse_tensors_are_repacked(layout: str, form: str, block: tuple[int, int] | None) -> None:
    weight = _sparse(16, 24)
    theirs = {
        "csr": weight.to_sparse_csr,
        "csc": weight.to_sparse_csc,
        "coo": weight.to_sparse,
        "bsr": lambda: weight.to_sparse_bsr((4, 8)),
        "bsc": lambda: weight.to_sparse_bsc((4, 8)),
    }[layout]()
    stored = compress(theirs, form, block=block)
    assert torch.equal(stored.to_dense(), weight)
    if layout == "bsr" and form == "bsr":
        assert torch.equal(stored.values, theirs.values())


def test_to_torch() -> None:
    weight = _sparse(16, 24)
    for form, block in (("bitmap", None), ("bsr", (4, 8))):
        csr = compress(weight, form, block=block).to_torch("csr")
        assert csr.layout == torch.sparse_csr
        assert torch.equal(csr.to_dense(), weight)
    bsr = compress(weight, "bsr", block=(4, 8)).to_torch("bsr")
    assert bsr.layout == torch.sparse_bsr
    assert torch.equal(bsr.to_dense(), weight)
    with pytest.raises(ArgumentError, match="reach over the edge"):
        compress(weight, "bsr", block=(5, 8)).to_torch("bsr")
    with pytest.raises(ArgumentError, match="stored as bitmap; expected bsr"):
        compress(weight, "bitmap").to_torch("bsr")
    with pytest.raises(ArgumentError, match="expected 2:4"):
        compress(weight, "bitmap").to_torch("semi_structured")
    with pytest.raises(ArgumentError, match="CUDA device"):
        compress(_two_of_four(32, 64), "2:4").to_torch("semi_structured")
    with pytest.raises(ArgumentError, match="layout is 'coo'"):
        compress(weight, "bitmap").to_torch("coo")


def test_stored_zeros_stay_stored() -> None:
    weight = torch.zeros(4, 6)
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[1, 2] = mask[3, 5] = True
    stored = compress(weight, "bitmap", mask=mask)
    assert stored.values.tolist() == [0, 0]
    assert torch.equal(stored.kept(), mask)
    csr = torch.sparse_csr_tensor([0, 1, 1], [1], [0.0], (2, 3), check_invariants=True)
    assert compress(csr, "bitmap").kept().sum() == 1


def test_moves_casts_and_prints() -> None:
    stored = compress(_sparse(16, 24), "bsr", block=(4, 8))
    half = stored.to(torch.bfloat16)
    assert (half.dtype, half.buffers[0].dtype) == (torch.bfloat16, torch.int32)
    assert torch.equal(half.to_dense(), stored.to_dense().bfloat16())
    assert stored.to("meta").device.type == "meta"
    assert stored.to("cpu", torch.float64).dtype == torch.float64
    for words in ("bsr 4x8 of 16x24", "float32 on cpu", "% stored", "format_version 1", "crow: int32 (5,)"):
        assert words in repr(stored)
    assert repr(compress(torch.zeros(0, 0), "bitmap"))
    with pytest.raises(ArgumentError, match="dtype is int32"):
        stored.to(torch.int32)


@pytest.mark.parametrize(
    ("args", "keywords", "error", "words"),
    [
        ((torch.randn(4, 4), "coo"), {}, ArgumentError, "format is 'coo'"),
        (([1.0], "bitmap"), {}, ArgumentError, "weight is of type list"),
        ((torch.randn(4), "bitmap"), {}, ArgumentError, r"shape \(4,\)"),
        ((torch.ones(4, 4).int(), "bitmap"), {}, DtypeError, "dtype int32"),
        ((torch.randn(4, 4), "2:4"), {}, ArgumentError, "4 of columns 0 to 3 in row 0"),
        ((torch.randn(4, 4), "bsr"), {"block": (0, 4)}, ArgumentError, "block is"),
        ((torch.randn(4, 4), "bsr"), {"block": 4}, ArgumentError, "block is 4"),
        ((torch.randn(4, 4), "bitmap"), {"block": (4, 4)}, ArgumentError, "no blocks"),
        ((torch.randn(4, 4), "bitmap"), {"mask": torch.ones(4, 4)}, ArgumentError, "mask is float32"),
        (
            (torch.randn(4, 4), "bitmap"),
            {"mask": torch.ones(4, 3).bool()},
            ShapeError,
            r"mask has shape \(4, 3\)",
        ),
    ],
)
def test_errors(args: Any, keywords: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        compress(*args, **keywords)


# --- strangers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("crow", "col"),
    [
        ([0, 1, 9], [0, 1]),
        ([0, 1, 2], [0, 7]),
        ([0, 1, 2], [0, -1]),
        ([0, 2, 2], [1, 1]),
        ([0, 2, 1], [0, 1]),
    ],
)
def test_a_hostile_csr_tensor_is_refused(crow: list[int], col: list[int]) -> None:
    hostile = torch.sparse_csr_tensor(crow, col, torch.ones(2), (2, 3), check_invariants=False)
    with pytest.raises(FormatError, match="weight's indices are not those of a"):
        compress(hostile, "bitmap")


def test_what_is_refused_is_named() -> None:
    state = compress(_sparse(6, 10, 1.0), "bsr", block=(2, 4)).state()
    crow, col, values = state["crow"], state["col"], state["values"]

    def refused(
        words: str, form: str = "bsr", shape: Any = (6, 10), version: Any = 1, **changed: Any
    ) -> None:
        with pytest.raises(FormatError, match=words):
            SparseWeight(form, shape, {**state, **changed}, version)

    refused(r"crow\[0\] is 1; expected 0", crow=crow + 1)
    refused(r"crow\[3\] is 10; expected 9, the number of blocks", crow=torch.tensor([0, 3, 6, 10]).int())
    refused(r"crow\[2\] is 2; expected at least 3", crow=torch.tensor([0, 3, 2, 9]).int())
    refused(r"col\[8\] is 3; expected 0 to 2", col=torch.cat((col[:-1], col[-1:] + 1)))
    refused(r"col\[1\] is 0; expected more than 0, sorted", col=col - col % 3)
    refused("crow has dtype int64; expected int32", crow=crow.long())
    refused("col has shape", col=col[:-1])
    refused("values has dtype int32", values=values.int())
    refused("values has 10 blocks", col=torch.cat((col, col[:1])), values=torch.cat((values, values[:1])))
    refused("not zero behind column 9", values=torch.ones_like(values))
    refused("is not contiguous", values=values.transpose(1, 2).contiguous().transpose(1, 2))
    refused("is of type list", col=col.tolist())
    refused("buffers are", more=col)
    refused("format is 'coo'", form="coo")
    refused("format_version is 2", version=2)
    refused("format_version is True", version=True)
    refused("N is -6", shape=(-6, 10))
    refused("shape is", shape=(6, 10.0))
    with pytest.raises(FormatError, match=r"make the weight anew with tilewright\.sparse\.compress"):
        SparseWeight("bsr", (6, 10), {**state, "crow": crow + 1})
    odd = compress(torch.ones(5, 8), "bsr", block=(2, 4)).state()
    odd["values"] = torch.ones_like(odd["values"])
    with pytest.raises(FormatError, match="not zero behind row 4"):
        SparseWeight("bsr", (5, 8), odd)


def test_what_is_refused_of_bits() -> None:
    state = compress(_sparse(6, 70, 0.5), "bitmap").state()

    def refused(words: str, **changed: Tensor) -> None:
        with pytest.raises(FormatError, match=words):
            SparseWeight("bitmap", (6, 70), {**state, **changed})

    bits = state["bits"].clone()
    bits[4, 1] |= -(1 << 63)
    refused(r"bits\[4, 1\] has bits set behind column 69", bits=bits)
    bits = state["bits"].clone()
    bits[3, 0] = 0
    refused("row says that row 3 has", bits=bits)
    row = state["row"].clone()
    row[2] += 1
    refused("row says that row 1 has", row=row)
    state = compress(_two_of_four(6, 9), "2:4").state()
    indices = state["indices"].clone()
    indices[2, 0] = 0x45
    with pytest.raises(FormatError, match="row 2, columns 0 to 3, are 1 and 1"):
        SparseWeight("2:4", (6, 9), {**state, "indices": indices})
    indices = state["indices"] | 0x40  # the nibble behind the third group
    with pytest.raises(FormatError, match="behind the last column"):
        SparseWeight(
            "2:4", (6, 9), {**state, "indices": torch.cat((state["indices"][:, :1], indices[:, 1:]), 1)}
        )
    with pytest.raises(FormatError, match="behind column 8"):
        SparseWeight("2:4", (6, 9), {**state, "values": torch.ones_like(state["values"])})


_WORDS = st.one_of(st.integers(-3, 12), st.integers(-(2**31), 2**31 - 1), st.sampled_from([0, 1, 255, -1]))


@st.composite
def _hostile(draw: Any) -> tuple[str, tuple[int, int], dict[str, Tensor]]:
    """A good weight with some of its integers, sizes, dtypes or values changed at random."""
    form = draw(st.sampled_from(sorted(BUFFERS)))
    torch.manual_seed(draw(st.integers(0, 2**31)))
    n, k = draw(st.integers(0, 9)), draw(st.integers(0, 70))
    block = (draw(st.integers(1, 5)), draw(st.integers(1, 5))) if form == "bsr" else None
    dense = _two_of_four(n, k) if form == "2:4" else _sparse(n, k, draw(st.sampled_from([0.0, 0.3, 1.0])))
    state = {name: buffer.clone() for name, buffer in compress(dense, form, block=block).state().items()}
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(sorted(state)))
        buffer = state[name]
        kind = draw(st.sampled_from(["word", "word", "word", "words", "size", "dtype", "shape", "value"]))
        if kind == "word" and buffer.numel() and not buffer.is_floating_point():
            at = draw(st.integers(0, buffer.numel() - 1))
            buffer.view(-1)[at] = torch.tensor(draw(_WORDS)).to(buffer.dtype)
        elif kind == "words" and not buffer.is_floating_point():
            state[name] = torch.randint(
                0, 256 if buffer.dtype == torch.uint8 else 2**31 - 1, buffer.shape
            ).to(buffer.dtype)
        elif kind == "size" and buffer.ndim:
            size = draw(st.integers(0, buffer.shape[0] + 2))
            state[name] = torch.zeros((size, *buffer.shape[1:]), dtype=buffer.dtype)
        elif kind == "dtype":
            state[name] = buffer.to(
                draw(st.sampled_from([torch.int8, torch.int16, torch.int32, torch.int64, torch.float32]))
            )
        elif kind == "shape":
            state[name] = buffer.unsqueeze(draw(st.integers(0, 1)) if buffer.ndim else 0)
        elif kind == "value" and buffer.is_floating_point():
            buffer.fill_(float(draw(st.sampled_from(["nan", "inf", "1"]))))
    shape = (
        (n + draw(st.integers(-1, 1)), k + draw(st.sampled_from([0, 0, 0, -4, 1, 64])))
        if draw(st.booleans())
        else (n, k)
    )
    return form, shape, state


@settings(deadline=None, max_examples=2000)
@given(_hostile())
def test_hostile_buffers_are_refused_or_mean_a_weight(
    hostile: tuple[str, tuple[int, int], dict[str, Tensor]],
) -> None:
    """Whatever the buffers: an error before anything reads them, or a weight that a slow reading agrees with."""
    form, shape, state = hostile
    try:
        weight = SparseWeight(form, shape, state)
    except FormatError:
        return
    torch.testing.assert_close(
        weight.to_dense(), _read_slowly(form, shape, state), rtol=0, atol=0, equal_nan=True
    )


def _read_slowly(form: str, shape: tuple[int, int], state: dict[str, Tensor]) -> Tensor:
    """The formats once more, element by element; Python's own bounds checks stand guard."""
    n, k = shape
    dense = torch.zeros(shape, dtype=state["values"].dtype)
    if form == "bitmap":
        values = iter(state["values"].tolist())
        for i in range(n):
            for j in range(k):
                if (state["bits"][i, j // 64].item() >> (j % 64)) & 1:
                    dense[i, j] = next(values)
        assert next(values, None) is None
    elif form == "2:4":
        indices = state["indices"].tolist()
        for i, row in enumerate(state["values"].tolist()):
            for at, value in enumerate(row):
                group = at // 2
                nibble = indices[i][group // 2] >> (4 * (group % 2)) & 15
                column = 4 * group + (nibble >> (2 * (at % 2)) & 3)
                if column < k:
                    dense[i, column] = value
                else:
                    assert value == 0
    else:
        r, c = state["values"].shape[1:]
        crow, col = state["crow"].tolist(), state["col"].tolist()
        for down in range(len(crow) - 1):
            for at in range(crow[down], crow[down + 1]):
                for i in range(r):
                    for j in range(c):
                        y, x, value = down * r + i, col[at] * c + j, state["values"][at, i, j]
                        if y < n and x < k:
                            dense[y, x] = value
                        else:
                            assert value == 0
    return dense
