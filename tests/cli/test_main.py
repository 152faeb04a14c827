"""The entry points."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest


def test_every_command_is_listed(invoke: Callable[..., Any]) -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    for command in ("doctor", "bench", "tune", "explain", "compile", "demo"):
        assert command in result.output


def test_python_dash_m() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tilewright", "--version"], capture_output=True, text=True, check=False
    )
    import tilewright

    assert (done.returncode, done.stdout.strip()) == (0, tilewright.__version__), done.stderr


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_a_missing_extra_is_named_with_its_remedy(missing: str) -> None:
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "from tilewright.cli import main\n"
        "sys.argv = ['tilewright', 'doctor']\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == (
        f"tilewright: the command line needs {missing}, which is not installed; pip install 'tilewright[cli]'"
    )


def test_another_missing_module_is_not_blamed_on_the_extras() -> None:
    code = (
        "import sys; sys.modules['tilewright.benchmark.run'] = None\n"
        "from tilewright.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "tilewright.benchmark.run" in done.stderr
    assert "pip install" not in done.stderr
