"""Small launches of every kind on one backend, each compared with torch: what compute-sanitizer watches.

gpu_launches.py triton

What the cost model picks runs through the public functions; then, for backends with several algorithms, the best config
of each algorithm on problems that most of them take. ``cuda_emulated`` rehearses on the CPU.
"""

import sys
from typing import Any

import torch

import tilewright
from tilewright import tuner
from tilewright.kernels import registry
from tilewright.kernels.conv2d.problem import Conv2dProblem
from tilewright.kernels.matmul.problem import MatmulProblem

backend = sys.argv[1]
device = "cpu" if backend == "cuda_emulated" else "cuda"
# The CUDA kernels multiply fp32 on tensor cores, rounded to tf32.
precision: Any = "tf32" if backend.startswith("cuda") else "auto"
right = 0


def check(y: torch.Tensor, expected: torch.Tensor, what: object) -> None:
    """Raises unless y is what torch computes in fp64, within what tf32 and 16-bit operands allow."""
    global right
    if device == "cuda":
        torch.cuda.synchronize()
    assert torch.allclose(y.double(), expected, rtol=3e-2, atol=3e-1), what
    right += 1


def each_algorithm(operation: str, problem: Any) -> list[Any]:
    """The first of a problem's configs for each algorithm."""
    spec = tuner.device.current("cuda" if device == "cuda" else "cpu", 0)
    found: dict[str, Any] = {}
    for config in registry.backend(operation, backend).configs(problem, spec):
        found.setdefault(config.algorithm, config)
    return list(found.values())


for m, n, k in ((1, 64, 64), (33, 65, 129), (128, 128, 64), (7, 1, 300), (16, 128, 256), (200, 264, 192)):
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        x, w = (torch.randn(s, device=device).to(dtype) for s in ((m, k), (n, k)))
        bias = torch.randn(n, device=device).to(dtype)
        expected = torch.relu(x.double() @ w.double().t() + bias.double())
        if device == "cuda":
            with tilewright.options(backend=backend, precision=precision, strict=True):
                check(tilewright.linear(x, w, bias, activation="relu"), expected, (m, n, k, dtype))
        problem = MatmulProblem.from_tensors(
            x, w.t(), bias, activation="relu", precision="tf32" if precision == "tf32" else "ieee"
        )
        for config in each_algorithm("matmul", problem):
            y = registry.backend("matmul", backend).bind(config, problem)(x, w.t(), bias, None)
            check(y, expected, (m, n, k, dtype, str(config)))
for n, c, size, k, window, options in (
    (2, 16, 15, 32, 3, {"stride": 2, "padding": 1}),
    (1, 3, 20, 8, 7, {"padding": 3}),
    (2, 24, 9, 40, 1, {"stride": 2}),
    (1, 12, 11, 12, 3, {"padding": 2, "dilation": 2, "groups": 3}),
    (2, 64, 14, 136, 3, {"padding": 1}),
    (1, 32, 13, 32, 3, {"padding": 1, "groups": 32}),
):
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        shapes = (n, c, size, size), (k, c // options.get("groups", 1), window, window)
        x, w = (torch.randn(s, device=device).to(dtype) for s in shapes)
        expected = torch.relu(torch.nn.functional.conv2d(x.double(), w.double(), **options))
        for layout in (torch.contiguous_format, torch.channels_last):
            x, w = (t.contiguous(memory_format=layout) for t in (x, w))
            what = shapes, options, dtype, layout
            if device == "cuda":
                try:
                    with tilewright.options(backend=backend, precision=precision, strict=True):
                        check(tilewright.conv2d(x, w, activation="relu", **options), expected, what)
                except tilewright.errors.ArgumentError as refusal:  # strict: no config takes it
                    print("not run:", refusal)
            pair = {name: (options.get(name, 1),) * 2 for name in ("stride", "dilation")}
            problem = Conv2dProblem.from_tensors(
                *(x, w, None, None),
                **pair,
                padding=(options.get("padding", 0),) * 4,
                groups=options.get("groups", 1),
                activation="relu",
                precision="tf32" if precision == "tf32" else "ieee",
            )
            for config in each_algorithm("conv2d", problem):
                y = registry.backend("conv2d", backend).bind(config, problem)(x, w, None, None)
                check(y, expected, (*what, str(config)))
print(right, "launches right")
