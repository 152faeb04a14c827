#!/usr/bin/env python3
"""Fails if the inner loop of a micro-kernel keeps a vector register on the stack.

A micro-kernel is fast because its sums stay in registers. Whether they do is up to the compiler's register
allocator: one row too many in a tile, or another compiler, and every step stores and reloads some. This reads the
machine code that was built. Of each named function it looks at the *hot loops*, the innermost loops with vector
multiply-adds, and fails on every instruction there that moves a vector register to or from the stack.

    check_spills.py --function 'multiply_tile<...,rows,vectors>' --function axpy_rows gemm.o gemv.o [--report]

A function is named without namespace, optionally with its template parameters; `...` stands for any number of
them. Each pattern must find a function, so a new name cannot empty the check. Where a pattern names `rows` and
`vectors`, every such function must have a hot loop that sums into at least rows × vectors registers.

Accesses to the stack are told from others by following rsp, not by register names (see machine_code.py). x86-64
only. What the compiler moved into a ``.cold`` part is not looked at.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path

from machine_code import Function, Instruction, Loop, UnreadableError, functions

FUSED = re.compile(r"vfn?m(add|sub)\d+p[sdh]$|vdpbf16ps$|vdpphps$|vpdp[bw]\w+$")
COUNTED = frozenset({"rows", "vectors"})


class PatternError(ValueError):
    """A pattern, or a function that does not fit it."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """``name`` or ``name<parameter,…>``, in which `rows` and `vectors` are counts."""

    text: str
    name: str
    parameters: tuple[str, ...] | None

    @classmethod
    def parse(cls, text: str) -> Pattern:
        match = re.fullmatch(r"(\w+)(?:<((?:\.\.\.|\w+)(?:,\w+)*)>)?", text.replace(" ", ""))
        if match is None:
            raise PatternError(f"'{text}' is no pattern; expected name, name<rows,vectors> or name<...,rows>")
        return cls(text, match[1], tuple(match[2].split(",")) if match[2] else None)

    def fits(self, function: str) -> bool:
        return template(function)[0] == self.name

    @property
    def counts(self) -> bool:
        return bool(COUNTED.intersection(self.parameters or ()))

    def tile(self, function: str) -> tuple[int, ...]:
        """The counts that a function's name gives: rows and vectors as far as the pattern names them."""
        if not self.counts:
            return ()
        assert self.parameters is not None
        arguments = template(function)[1]
        wanted = [parameter for parameter in self.parameters if parameter != "..."]
        if len(arguments) < len(wanted) or (self.parameters[0] != "..." and len(arguments) > len(wanted)):
            raise PatternError(f"{short(function)} does not fit the pattern {self.text}")
        found = []
        for parameter, argument in zip(reversed(wanted), reversed(arguments), strict=False):
            if parameter in COUNTED:
                number = re.fullmatch(r"(?:\([\w ]+\))?(\d+)[ul]*", argument)
                if number is None:
                    raise PatternError(f"{short(function)}: {argument} is no number of {parameter}")
                found.append(int(number[1]))
        return tuple(reversed(found))


def template(demangled: str) -> tuple[str, list[str]]:
    """The unqualified name and the template arguments of a demangled function; no name for a local entity's."""
    text = demangled.replace("(anonymous namespace)", "anonymous").replace("operator()", "call")
    depth, start, arguments, ends = 0, 0, [], len(text)
    for at, char in enumerate(text):
        if char in "<(":
            if depth == 0 and char == "(":
                ends = at
                break
            if depth == 0:
                arguments = [at]
            depth += 1
        elif char in ">)":
            depth -= 1
            if depth == 0:
                arguments.append(at)
        elif char == "," and depth == 1:
            arguments.append(at)
        elif depth == 0 and char in " :":
            start, arguments = at + 1, []  # a return type or an enclosing scope came before
    if re.search(r"\)(?: const)?::", text[ends:]):
        return "", []  # a lambda's or a local class's member
    name = text[start : arguments[0] if arguments else ends]
    return name, [text[first + 1 : last].strip() for first, last in pairwise(arguments)]


def short(demangled: str) -> str:
    """A function's name and template arguments without namespaces."""
    name, arguments = template(demangled)
    listed = ", ".join(re.sub(r"(?:\w+::)+", "", argument) for argument in arguments)
    return f"{name}<{listed}>" if arguments else name


def multiply_adds(instructions: Sequence[Instruction]) -> list[Instruction]:
    """The vector multiply-adds; where there are no fused ones, the additions beside multiplications."""
    fused = [one for one in instructions if FUSED.match(one.mnemonic)]
    names = {one.mnemonic for one in instructions}
    if fused or not names & {"mulps", "vmulps"}:
        return fused
    return [one for one in instructions if one.mnemonic in ("addps", "vaddps")]


@dataclass(frozen=True, slots=True)
class Finding:
    """A hot loop, and what it does in one round."""

    function: str
    tile: tuple[int, ...]
    loop: Loop

    @property
    def multiply_adds(self) -> int:
        return len(multiply_adds(self.loop.instructions))

    @property
    def accumulators(self) -> int:
        registers = {one.operands[0].split("{")[0] for one in multiply_adds(self.loop.instructions)}
        return len({register.lstrip("xyz") for register in registers})

    @property
    def loads(self) -> int:
        return sum(
            one.vectors and one.memory is not None and not one.stores for one in self.loop.instructions
        )

    @property
    def stores(self) -> int:
        return sum(one.vectors and one.stores for one in self.loop.instructions)

    @property
    def pointers(self) -> int:
        """Accesses to the stack by general registers: no fault, but each takes the place of a load."""
        return sum(not one.vectors for one in self.loop.stack)

    @property
    def spills(self) -> list[Instruction]:
        return [one for one in self.loop.stack if one.vectors]


def inspect(function: Function, pattern: Pattern) -> list[Finding]:
    tile = pattern.tile(function.name)
    loops = function.innermost_loops(lambda inside: bool(multiply_adds(inside)))
    return [Finding(function.name, tile, loop) for loop in loops]


def faults(pattern: Pattern, name: str, findings: list[Finding], constants: bool) -> list[str]:
    """What is wrong with one function and its clones, a line each."""
    name, found = short(name), []
    for finding in findings:
        spills = finding.spills
        if constants and not any(one.stores for one in spills):
            continue
        first = finding.loop.instructions[0].address
        found += [
            f"{name}: {one.address:#x}: {one}: {'spilled' if one.stores else 'reloaded'} in the loop at {first:#x}"
            for one in spills
        ]
    if not pattern.counts:
        return found
    if not findings:
        return [f"{name}: no loop with vector multiply-adds; is it in a function that was not inlined?"]
    most, expected = max(finding.accumulators for finding in findings), prod(findings[0].tile)
    if most < expected:
        found.append(f"{name}: sums into {most} registers, {expected} expected for {pattern.text}")
    return found


def table(findings: list[Finding]) -> str:
    head = (
        "function",
        "tile",
        "loop",
        "multiply-adds",
        "accumulators",
        "loads",
        "stores",
        "pointers on the stack",
        "on the stack",
    )
    rows = [
        (
            short(finding.function),
            "x".join(map(str, finding.tile)) or "-",
            f"{finding.loop.instructions[0].address:#x}",
            *map(str, (finding.multiply_adds, finding.accumulators, finding.loads, finding.stores)),
            *map(str, (finding.pointers, len(finding.spills))),
        )
        for finding in findings
    ]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = []
    for row in [head, *rows]:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--objdump", default="objdump")
    parser.add_argument(
        "--function", action="append", required=True, metavar="PATTERN", help="may be repeated"
    )
    parser.add_argument(
        "--allow-constants",
        action="store_true",
        help="accept loops that read the stack without writing it: constants that found no register, not sums",
    )
    parser.add_argument("--report", action="store_true", help="print what each hot loop does in one round")
    parser.add_argument("objects", nargs="+", type=Path)
    arguments = parser.parse_args()
    problems: list[str] = []
    findings: list[Finding] = []
    try:
        patterns = [Pattern.parse(text) for text in arguments.function]
        groups: dict[tuple[Pattern, Path, str], list[Finding]] = {}
        for path in arguments.objects:
            for function in functions(path, arguments.objdump, lambda name: wanted(name, patterns)):
                for pattern in patterns:
                    if pattern.fits(function.name):
                        whole = function.name.partition(" [clone")[0]
                        groups.setdefault((pattern, path, whole), []).extend(inspect(function, pattern))
    except (PatternError, UnreadableError) as error:
        print(f"check_spills: {error}", file=sys.stderr)
        return 2
    for (pattern, path, name), found in groups.items():
        lines = faults(pattern, name, found, arguments.allow_constants)
        problems += [f"{path.name}: {line}" for line in lines]
        findings += found
    for pattern in patterns:
        found_by = [found for (by, _, _), found in groups.items() if by == pattern]
        if not found_by:
            problems.append(f"no function {pattern.text} in the objects: renamed, or inlined everywhere?")
        elif not any(found_by):
            problems.append(f"no function {pattern.text} has a loop with vector multiply-adds")
    if arguments.report:
        print(table(findings))
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        print(
            f"{len(problems)} fault(s): the sums of a micro-kernel belong into registers. Use fewer rows or vectors "
            "in its tile, or bring the names in CMakeLists.txt (TILEWRIGHT_MICRO_KERNELS) up to date",
            file=sys.stderr,
        )
    return 1 if problems else 0


def wanted(name: str, patterns: list[Pattern]) -> bool:
    """Is it one to look at? Cold parts are not."""
    return ".cold" not in name and any(pattern.name in name and pattern.fits(name) for pattern in patterns)


if __name__ == "__main__":
    sys.exit(main())
