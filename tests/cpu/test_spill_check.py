"""tools/check_spills.py: sums on the stack fail the build, sums in registers do not."""

from __future__ import annotations

import importlib
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None or shutil.which("objdump") is None or platform.machine() != "x86_64",
    reason="needs g++ and objdump for x86-64",
)

KERNELS = """
typedef float vf __attribute__((vector_size(32)));
typedef float four __attribute__((vector_size(16)));

namespace kernels {

// rows x vectors sums; 16 registers hold at most 15 of them beside an operand.
template <class V, int kRows, int kVectors>
__attribute__((noinline)) void tile(const float* a, const V* b, V* c, long steps) {
  V sum[kRows][kVectors] = {};
  for (; steps > 0; --steps, a += kRows, b += kVectors) {
#pragma GCC unroll 64
    for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 64
      for (int j = 0; j < kVectors; ++j) sum[i][j] += a[i] * b[j];
  }
#pragma GCC unroll 64
  for (int i = 0; i < kRows; ++i)
#pragma GCC unroll 64
    for (int j = 0; j < kVectors; ++j) c[i * kVectors + j] = sum[i][j];
}

// The sums are in memory that is not the stack.
template <class V, int kRows, int kVectors>
__attribute__((noinline)) void memory(const float* a, const V* b, V* c, long steps) {
  for (; steps > 0; --steps, ++b) {
    c[0] += a[0] * *b;
    asm volatile("" ::: "memory");
  }
}

template <class V, int kRows, int kVectors>
__attribute__((noinline)) void straight(const float* a, const V* b, V* c, long) {
  c[0] += a[0] * b[0];
}

}  // namespace kernels

#define KERNEL(name, vector, rows, vectors) \\
  template void kernels::name<vector, rows, vectors>(const float*, const vector*, vector*, long);
"""

Compile = Callable[..., Path]
Check = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def compiled(tmp_path: Path) -> Compile:
    """Compiles some of the kernels above: ``compiled("tile", 4, 2)``."""

    def build(name: str, rows: int, vectors: int, vector: str = "vf", *flags: str) -> Path:
        source, target = tmp_path / "kernel.cpp", tmp_path / f"{name}.o"
        source.write_text(f"{KERNELS}\nKERNEL({name}, {vector}, {rows}, {vectors})\n")
        isa = ("-mavx2", "-mfma") if vector == "vf" else ("-msse2",)
        command = ["g++", "-std=c++17", "-O3", *isa, *flags, "-c", str(source), "-o", str(target)]
        subprocess.run(command, check=True)
        return target

    return build


@pytest.fixture
def check(repository: Path) -> Check:
    def run(target: Path, *patterns: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        named = [argument for pattern in patterns for argument in ("--function", pattern)]
        command = [sys.executable, str(repository / "tools/check_spills.py"), *named, *options, str(target)]
        return subprocess.run(command, capture_output=True, text=True)

    return run


@needs_compiler
@pytest.mark.parametrize("vector", ["vf", "four"])
def test_sums_in_registers_pass(compiled: Compile, check: Check, vector: str) -> None:
    result = check(compiled("tile", 4, 2, vector), "tile<...,rows,vectors>", options=("--report",))
    assert result.returncode == 0, result.stderr
    head, row = (line.split("  ") for line in result.stdout.splitlines())
    cells = dict(zip(filter(None, map(str.strip, head)), filter(None, map(str.strip, row)), strict=True))
    assert cells["tile"] == "4x2"
    assert cells["multiply-adds"] == cells["accumulators"] == "8"
    assert int(cells["loads"]) >= 2  # b; of a, each number or all at once
    assert cells["stores"] == cells["pointers on the stack"] == cells["on the stack"] == "0"


@needs_compiler
@pytest.mark.parametrize("vector", ["vf", "four"])
@pytest.mark.parametrize("flags", [(), ("-fno-omit-frame-pointer",)])
def test_sums_on_the_stack_fail(compiled: Compile, check: Check, vector: str, flags: tuple[str, ...]) -> None:
    result = check(compiled("tile", 10, 4, vector, *flags), "tile")
    assert result.returncode == 1
    faults = [line for line in result.stderr.splitlines() if line.startswith("tile.o: tile<")]
    assert any(line.startswith("tile.o: tile<") and ": 0x" in line and "mm" in line for line in faults)
    assert {line.split(" in the loop")[0].rsplit(" ", 1)[1] for line in faults} == {"spilled", "reloaded"}
    allowed = check(compiled("tile", 10, 4, vector, *flags), "tile", options=("--allow-constants",))
    assert allowed.returncode == 1  # sums are written, so they are no constants


@needs_compiler
def test_a_pattern_must_find_a_function_with_a_loop(compiled: Compile, check: Check) -> None:
    target = compiled("straight", 1, 1)
    for pattern, fault in (
        ("renamed", "no function renamed in the objects"),
        ("straight", "no function straight has a loop"),
        (
            "straight<...,rows,vectors>",
            "straight<float __vector(8), 1, 1>: no loop with vector multiply-adds",
        ),
    ):
        result = check(target, pattern)
        assert result.returncode == 1
        assert fault in result.stderr


@needs_compiler
def test_sums_must_be_as_many_registers_as_the_name_says(compiled: Compile, check: Check) -> None:
    result = check(compiled("memory", 2, 3), "memory<...,rows,vectors>")
    assert result.returncode == 1
    assert "sums into 1 registers, 6 expected" in result.stderr
    assert check(compiled("memory", 2, 3), "memory").returncode == 0


@needs_compiler
@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("tile<", "is no pattern"),
        ("tile<rows>", "does not fit"),
        ("tile<_,_,_,rows>", "does not fit"),
        ("tile<rows,_,vectors>", "is no number of rows"),
    ],
)
def test_patterns_that_do_not_fit_are_named(
    compiled: Compile, check: Check, pattern: str, message: str
) -> None:
    result = check(compiled("tile", 1, 1), pattern)
    assert result.returncode == 2
    assert message in result.stderr


# The parts, on listings written by hand


@pytest.fixture
def spills(repository: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(repository / "tools"))
    return importlib.import_module("check_spills")


@pytest.fixture
def code(spills: ModuleType) -> ModuleType:
    return importlib.import_module("machine_code")


def listing(*lines: str) -> str:
    """A function in which every instruction is four bytes long."""
    numbered = [f"  {4 * index:x}:\t{line}" for index, line in enumerate(lines)]
    return "\n".join(["0000000000000000 <f()>:", *numbered])


def stack_accesses(spills: ModuleType, code: ModuleType, *lines: str) -> list[str]:
    """Per hot loop of a function, the accesses to the stack."""
    (function,) = code.parse(listing(*lines), lambda name: name == "f()")
    found = spills.inspect(function, spills.Pattern.parse("f"))
    return ["; ".join(map(str, finding.spills)) for finding in found]


FMA = "vfmadd231ps ymm0,ymm1,ymm2"


@pytest.mark.parametrize(
    ("before", "access", "on_stack"),
    [
        ((), "YMMWORD PTR [rsp-0x40]", True),
        ((), "YMMWORD PTR [rdi+rax*4]", False),
        ((), "YMMWORD PTR [rip+0x0]        # 20 <f()+0x20>", False),
        # Without a frame pointer rbp is a register like any other.
        (("mov    rbp,rdi",), "YMMWORD PTR [rbp+0x40]", False),
        (("push   rbp", "mov    rbp,rsp"), "YMMWORD PTR [rbp-0x40]", True),
        (("mov    rbp,rsp", "mov    rbp,QWORD PTR [rdi]"), "YMMWORD PTR [rbp-0x40]", False),
        # Addresses of arrays on the stack.
        (("lea    rax,[rsp+0x20]",), "YMMWORD PTR [rax+rcx*1]", True),
        (("lea    rax,[rsp+0x20]", "mov    r9,rax", "add    r9,0x20"), "YMMWORD PTR [r9]", True),
        (("lea    rax,[rsp+0x20]", "lea    rdx,[rax+rcx*8]"), "YMMWORD PTR [rdx]", True),
        (("lea    rax,[rsp+0x20]", "xor    eax,eax"), "YMMWORD PTR [rdi+rax*1]", False),
        (("lea    rax,[rsp+0x20]", "cmp    rdx,rax"), "YMMWORD PTR [rdx]", False),
        (("lea    rax,[rsp+0x20]", "call   99 <g()>"), "YMMWORD PTR [rax]", False),
        (("mov    rcx,rdi", "xchg   rcx,rsp"), "YMMWORD PTR [rcx]", True),
        # Spilled addresses, to the stack and to a vector register.
        (
            ("lea    rax,[rsp+0x20]", "mov    QWORD PTR [rsp],rax", "mov    rbx,QWORD PTR [rsp]"),
            "YMMWORD PTR [rbx]",
            True,
        ),
        (("lea    rax,[rsp+0x20]", "vmovq  xmm9,rax", "vmovq  rbx,xmm9"), "YMMWORD PTR [rbx]", True),
        (("mov    QWORD PTR [rsp],rdi", "mov    rbx,QWORD PTR [rsp]"), "YMMWORD PTR [rbx]", False),
        # A realigned stack.
        (("lea    r10,[rsp+0x8]", "and    rsp,0xffffffffffffffe0"), "YMMWORD PTR [r10-0x40]", True),
    ],
)
def test_the_stack_is_told_from_other_memory(
    spills: ModuleType, code: ModuleType, before: tuple[str, ...], access: str, on_stack: bool
) -> None:
    loop = 4 * len(before)
    load, store = f"vmovaps ymm3,{access}", f"vmovaps {access.partition('#')[0].strip()},ymm3"
    for instruction in (load, store, f"vaddps ymm4,ymm4,{access}"):
        found = stack_accesses(spills, code, *before, FMA, instruction, f"jne    {loop:x} <f()>", "ret")
        assert len(found) == 1
        assert bool(found[0]) == on_stack


@pytest.mark.parametrize(("first", "second"), [("rdi", "rsp"), ("rsp", "rdi")])
def test_an_address_on_one_of_two_paths_counts(
    spills: ModuleType, code: ModuleType, first: str, second: str
) -> None:
    access = "vmovaps ymm3,YMMWORD PTR [rax]"
    paths = (f"mov    rax,{first}", "je     c <f()+0xc>", f"mov    rax,{second}")
    loop = (FMA, access, "jne    c <f()+0xc>", "ret")
    assert stack_accesses(spills, code, *paths, *loop) == [access]


def test_only_innermost_loops_count(spills: ModuleType, code: ModuleType) -> None:
    stack = "vmovaps ymm3,YMMWORD PTR [rsp]"
    inner = (FMA, "dec    rcx", "jne    4 <f()+0x4>")
    assert stack_accesses(spills, code, stack, *inner, "dec    rdx", "jne    0 <f()>", "ret") == [""]
    # Part of the loop's body lies behind its last jump, and a loop without multiply-adds inside of it.
    lines = (FMA, "je     14 <f()+0x14>", "dec    rcx", "jne    0 <f()>", "ret")
    away = (stack, "dec    rax", "jne    14 <f()+0x14>", "jmp    8 <f()+0x8>")
    assert stack_accesses(spills, code, *lines, *away) == [stack]
    # What no loop contains, and what a jump leaves to another section, is no loop.
    assert (
        stack_accesses(spills, code, FMA, stack, "jne    0 <f()>\te: R_X86_64_PC32\t.text-0x4", "ret") == []
    )


def test_general_registers_may_be_on_the_stack(spills: ModuleType, code: ModuleType) -> None:
    lines = (FMA, "mov    rax,QWORD PTR [rsp+0x8]", "prefetcht1 BYTE PTR [rsp]", "jne    0 <f()>", "ret")
    assert stack_accesses(spills, code, *lines) == [""]
    (function,) = code.parse(listing(*lines), lambda name: True)
    (finding,) = spills.inspect(function, spills.Pattern.parse("f"))
    assert finding.pointers == 1


def test_constants_on_the_stack_can_be_allowed(spills: ModuleType, code: ModuleType) -> None:
    lines = (FMA, "vpand  ymm3,ymm3,YMMWORD PTR [rsp]", "jne    0 <f()>", "ret")
    (function,) = code.parse(listing(*lines), lambda name: True)
    pattern = spills.Pattern.parse("f")
    findings = spills.inspect(function, pattern)
    assert spills.faults(pattern, function.name, findings, constants=True) == []
    (fault,) = spills.faults(pattern, function.name, findings, constants=False)
    assert fault == "f: 0x4: vpand ymm3,ymm3,YMMWORD PTR [rsp]: reloaded in the loop at 0x0"


@pytest.mark.parametrize("line", ["notrack jmp rax", "(bad)"])
def test_what_cannot_be_read_is_an_error(spills: ModuleType, code: ModuleType, line: str) -> None:
    with pytest.raises(code.UnreadableError):
        stack_accesses(spills, code, FMA, line, "jne    0 <f()>", "ret")


@pytest.mark.parametrize(
    ("demangled", "name", "arguments"),
    [
        ("void a::b::tile<a::Step<a::bf16>, 14, 2>(long, X<1, 2>)", "tile", ["a::Step<a::bf16>", "14", "2"]),
        ("void a::(anonymous namespace)::tile<float, 3>(int*) [clone .constprop.0]", "tile", ["float", "3"]),
        ("std::vector<int> tile<void (*)(int)>(long)", "tile", ["void (*)(int)"]),
        ("a::tile(int (*)(long))", "tile", []),
        ("tile", "tile", []),
        ("a::Group<tile<1>, 2>::run(int) const", "run", []),
        ("void a::tile<1>(int)::{lambda(int)#1}::operator()(int) const", "", []),
    ],
)
def test_names_are_taken_apart(spills: ModuleType, demangled: str, name: str, arguments: list[str]) -> None:
    assert spills.template(demangled) == (name, arguments)
