"""A clean run under the sanitizers proves something only if they are in force."""

from __future__ import annotations

import subprocess
import sys

from tests.cpu.test_plan import fields


def test_the_sanitizer_sees_a_read_past_the_end() -> None:
    program = f"""
import torch
from tilewright import _C
short, b, out = torch.ones(4 * 6 - 1), torch.ones(6 * 5), torch.empty(4 * 5)
_C.MatmulPlan(**{fields()!r}).run(short.data_ptr(), b.data_ptr(), out.data_ptr(), 0, 0, 0)
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert result.returncode != 0
    assert "heap-buffer-overflow" in result.stderr
