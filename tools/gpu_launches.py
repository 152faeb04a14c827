"""Small launches of every kind on one backend, each compared with torch: what compute-sanitizer watches.

gpu_launches.py triton
"""

import sys

import torch

import tilewright

backend = sys.argv[1]
# The CUDA kernels multiply fp32 on tensor cores, rounded to tf32.
precision = "tf32" if backend == "cuda" else "auto"
right = 0
for m, n, k in ((1, 64, 64), (33, 65, 129), (128, 128, 64), (7, 1, 300)):
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        x, w = (torch.randn(s, device="cuda").to(dtype) for s in ((m, k), (n, k)))
        bias = torch.randn(n, device="cuda").to(dtype)
        with tilewright.options(backend=backend, precision=precision, strict=True):
            y = tilewright.linear(x, w, bias, activation="relu")
        torch.cuda.synchronize()
        expected = torch.relu(x.double() @ w.double().t() + bias.double())
        assert torch.allclose(y.double(), expected, rtol=3e-2, atol=3e-1), (m, n, k, dtype)
        right += 1
for n, c, size, k, window, options in (
    (2, 16, 15, 32, 3, {"stride": 2, "padding": 1}),
    (1, 3, 20, 8, 7, {"padding": 3}),
    (2, 24, 9, 40, 1, {"stride": 2}),
    (1, 12, 11, 12, 3, {"padding": 2, "dilation": 2, "groups": 3}),
):
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        shapes = (n, c, size, size), (k, c // options.get("groups", 1), window, window)
        x, w = (torch.randn(s, device="cuda").to(dtype) for s in shapes)
        for layout in (torch.contiguous_format, torch.channels_last):
            x, w = (t.contiguous(memory_format=layout) for t in (x, w))
            try:
                with tilewright.options(backend=backend, precision=precision, strict=True):
                    y = tilewright.conv2d(x, w, activation="relu", **options)
            except tilewright.errors.ArgumentError as refusal:  # strict: no config takes it
                print("not run:", refusal)
                continue
            torch.cuda.synchronize()
            expected = torch.relu(torch.nn.functional.conv2d(x.double(), w.double(), **options))
            assert torch.allclose(y.double(), expected, rtol=3e-2, atol=3e-1), (
                shapes,
                options,
                dtype,
                layout,
            )
            right += 1
print(right, "launches right")
