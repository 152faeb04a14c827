"""Convolution whose operands are fetched as boxes by the tensor memory accelerator (sm_90 and newer).

The same product as implicit_gemm.py and input_gradient.py (without a stride), but a tile's pixels are a box of
BOX_N images × BOX_H rows × BOX_W columns. What one tap of the window reads is then a box of the same size, shifted; the
hardware fetches it from a descriptor of the image, and fills what lies outside of the image with zeros: that is the
padding. No thread computes an address or a mask.

            image, channels c … c + BLOCK_K         BOX_H × BOX_W pixels of the output at (p, q)
          . . . . . . . . . .                       read, for tap (r, s), the box at
          . +---------------+ .                     (p - top + r·dilation_h, q - left + s·dilation_w)
        +-----+             | .
        |0 0 0|             | .                     the part of it that lies outside is zeros
        |0 x x|             |
        +-----+-------------+

With a stride, the columns that a tap reads are `stride_w` apart. They are neighbours again in a view of the image in
which stride_w pixels are one with stride_w·C channels, and rows likewise are (H / stride_h, stride_h): descriptors have
five dimensions, (N, H / stride_h, stride_h, W / stride_w, stride_w·C). So strides must divide the image.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
# Triton's language is typed by the compiler, not by annotations.

from __future__ import annotations

import triton
import triton.language as tl

from tilewright.kernels.conv2d.triton.pixels import store_pixels
from tilewright.kernels.triton_blocks import as_multiple, tile_of_program


@triton.jit
def descriptor(
    in_desc,
    w_desc,
    y_ptr,
    preact_ptr,
    bias_ptr,
    residual_ptr,
    BATCH,
    N,
    C,
    P,
    Q,
    R,
    S,
    stride_h,
    stride_w,
    origin_h,
    origin_w,
    delta_h,
    delta_w,
    pixel_channels,
    y_part,
    y_n,
    y_k,
    y_h,
    y_w,
    bias_stride,
    residual_n,
    residual_k,
    residual_h,
    residual_w,
    BOX_N: tl.constexpr,
    BOX_H: tl.constexpr,
    BOX_W: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    SPLIT_K: tl.constexpr,
    EVEN_M: tl.constexpr,
    EVEN_N: tl.constexpr,
    N_LAST: tl.constexpr,
    Y_UNIT: tl.constexpr,
    RESIDUAL_UNIT: tl.constexpr,
    ROWS_LAST: tl.constexpr,
    WIDE: tl.constexpr,
    SUBTILES: tl.constexpr,
    ACTIVATION: tl.constexpr,
    INPUT_PRECISION: tl.constexpr,
    DECODE: tl.constexpr,
):
    """BATCH images of P × Q pixels are computed, N output channels from C input channels per group.

    Output pixel (p, q) reads (p·stride + origin + r·delta, …) at tap (r, s): of x forward, of dy for the input's
    gradient, whose delta is negative. An image's pixels have `pixel_channels` channels. `w_desc` describes the weight
    as (R·S, K, C/groups); N_LAST says that its K are the reduced channels.
    """
    if Y_UNIT > 1:
        y_n, y_h = as_multiple(y_n, Y_UNIT), as_multiple(y_h, Y_UNIT)
        if ROWS_LAST:
            y_k = as_multiple(y_k, Y_UNIT)
        else:
            y_w, N = as_multiple(y_w, Y_UNIT), as_multiple(N, Y_UNIT)
    if RESIDUAL_UNIT > 1:
        residual_n, residual_h = (
            as_multiple(residual_n, RESIDUAL_UNIT),
            as_multiple(residual_h, RESIDUAL_UNIT),
        )
        if ROWS_LAST:
            residual_k = as_multiple(residual_k, RESIDUAL_UNIT)
        else:
            residual_w = as_multiple(residual_w, RESIDUAL_UNIT)

    BLOCK_M: tl.constexpr = BOX_N * BOX_H * BOX_W
    boxes_h, boxes_w = tl.cdiv(P, BOX_H), tl.cdiv(Q, BOX_W)
    boxes = tl.cdiv(BATCH, BOX_N) * boxes_h * boxes_w
    group, part, row, col = tile_of_program(boxes * BLOCK_M, N, BLOCK_M, BLOCK_N, GROUP_M, SPLIT_K, False)
    box = row // BLOCK_M
    q0 = box % boxes_w * BOX_W
    p0 = box // boxes_w % boxes_h * BOX_H
    n0 = box // (boxes_w * boxes_h) * BOX_N

    c_tiles = tl.cdiv(C, BLOCK_K)
    steps = R * S * c_tiles
    part_steps = tl.cdiv(steps, SPLIT_K)
    first = tl.minimum(part * part_steps, steps)
    last = tl.minimum(first + part_steps, steps)
    # Carried from step to step rather than divided out of its number: see taps.py.
    tap = first // c_tiles
    c = first % c_tiles * BLOCK_K
    r, s = tap // S, tap % S
    # Channels × pixels, with x as the right operand: as the left one, the compiler for sm_90 would pass the box through
    # registers, because its five dimensions have to become two.
    acc = tl.zeros((BLOCK_N, BLOCK_M), dtype=tl.float32)
    for _ in range(first, last):
        shift_h, shift_w = origin_h + r * delta_h, origin_w + s * delta_w
        # Rounded down, so that what is left of the image stays outside of it in the view, too.
        row_in, column_in = floor_div(shift_h, stride_h), floor_div(shift_w, stride_w)
        x = in_desc.load(
            [
                n0,
                p0 + row_in,
                shift_h - row_in * stride_h,
                q0 + column_in,
                (shift_w - column_in * stride_w) * pixel_channels + group * C + c,
            ]
        )
        x = tl.trans(tl.reshape(x, (BLOCK_M, BLOCK_K)))
        if N_LAST:
            w = tl.trans(tl.reshape(w_desc.load([r * S + s, group * C + c, col]), (BLOCK_K, BLOCK_N)))
        else:
            w = tl.reshape(w_desc.load([r * S + s, group * N + col, c]), (BLOCK_N, BLOCK_K))
        if DECODE:
            x, w = x.to(tl.float32), w.to(tl.float32)
        acc = tl.dot(w, x, acc, input_precision=INPUT_PRECISION)
        c += BLOCK_K
        tap_done = c >= C
        c = tl.where(tap_done, 0, c)
        s += tl.where(tap_done, 1, 0)
        row_done = s == S
        s = tl.where(row_done, 0, s)
        r += tl.where(row_done, 1, 0)

    rows = tl.arange(0, BLOCK_M)
    n = n0 + rows // (BOX_H * BOX_W)
    p = p0 + rows // BOX_W % BOX_H
    q = q0 + rows % BOX_W
    store_pixels(
        tl.trans(acc),
        y_ptr + part.to(tl.int64) * y_part,
        preact_ptr,
        bias_ptr,
        residual_ptr,
        n,
        p,
        q,
        (n < BATCH) & (p < P) & (q < Q),
        group.to(tl.int64),
        col,
        N,
        y_n,
        y_k,
        y_h,
        y_w,
        bias_stride,
        residual_n,
        residual_k,
        residual_h,
        residual_w,
        BLOCK_M,
        BLOCK_N,
        SUBTILES,
        ACTIVATION,
        EVEN_M,
        EVEN_N,
        ROWS_LAST,
        1,
        1,
        WIDE,
    )


@triton.jit
def floor_div(value, divisor):
    """⌊value / divisor⌋; the language's own division of integers rounds towards zero."""
    quotient = value // divisor
    return quotient - tl.where(quotient * divisor > value, 1, 0)
