"""The hash that says what the compiled core was made of: tools/hash_sources.py and ``_C.build_info()``."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tilewright import _C

Hash = Callable[..., str]

FILES = {"csrc/a.cpp": "int a;", "csrc/b.h": "int b;"}


@pytest.fixture
def digest(repository: Path, tmp_path: Path) -> Hash:
    """The hash in what the tool writes for files of this content."""

    def run(files: dict[str, str], *settings: str) -> str:
        root, output = tmp_path / "tree", tmp_path / "source_hash.cpp"
        shutil.rmtree(root, ignore_errors=True)
        for name, content in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(content)
        command = [sys.executable, str(repository / "tools/hash_sources.py")]
        command += ["--root", str(root), "--output", str(output)]
        subprocess.run([*command, *(f"--setting={setting}" for setting in settings), *files], check=True)
        found = re.findall(r'kSourceHash = "([0-9a-f]{16})";', output.read_text())
        assert len(found) == 1
        return str(found[0])

    return run


def test_the_module_names_what_it_was_made_of() -> None:
    assert re.fullmatch(r"[0-9a-f]{16}", _C.build_info()["source_hash"])


def test_equal_sources_have_equal_hashes(digest: Hash) -> None:
    first = digest(FILES, "compiler GNU 12")
    assert digest(FILES, "compiler GNU 12") == first
    assert digest(dict(reversed(FILES.items())), "compiler GNU 12") == first


@pytest.mark.parametrize(
    ("files", "settings"),
    [
        (FILES | {"csrc/b.h": "int c;"}, ["compiler GNU 12"]),
        (FILES | {"csrc/c.h": ""}, ["compiler GNU 12"]),
        ({"csrc/a.cpp": "int a;"}, ["compiler GNU 12"]),
        ({"csrc/a.cpp": "int a;", "csrc/c.h": "int b;"}, ["compiler GNU 12"]),
        ({"csrc/a.cpp": "int b;", "csrc/b.h": "int a;"}, ["compiler GNU 12"]),
        (FILES, ["compiler GNU 13"]),
        (FILES, ["compiler GNU 12", "flags -O2"]),
        (FILES, []),
    ],
    ids=["content", "added", "removed", "renamed", "exchanged", "compiler", "flags", "no settings"],
)
def test_every_difference_shows(digest: Hash, files: dict[str, str], settings: list[str]) -> None:
    assert digest(files, *settings) != digest(FILES, "compiler GNU 12")


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_what_is_written_compiles(repository: Path, digest: Hash, tmp_path: Path) -> None:
    digest(FILES)
    command = [
        "g++",
        "-std=c++20",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-fsyntax-only",
        f"-I{repository / 'csrc'}",
    ]
    subprocess.run([*command, str(tmp_path / "source_hash.cpp")], check=True)
