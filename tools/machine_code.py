"""Reads x86-64 machine code as objdump prints it: functions, their loops, and which registers address the stack.

Nothing here knows what a kernel is; ``check_spills.py`` does.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

HEADER = re.compile(r"^[0-9a-f]+ <(.*)>:$")
LINE = re.compile(r"^\s*([0-9a-f]+):\t(.*)$")
RELOCATION = re.compile(r"\s*[0-9a-f]+: R_X86_64_\S+\s.*$")
PREFIXES = frozenset({"bnd", "cs", "data16", "ds", "lock", "notrack", "rep", "repz", "repnz"})
MEMORY = re.compile(r"\[([^\]]*)\]")
VECTOR = re.compile(r"^[xyz]mm\d+")
ENDS = frozenset({"jmp", "ret", "ud2", "hlt", "int3"})
"""After these the next instruction is not reached from here."""


class UnreadableError(Exception):
    """The machine code holds something of which the loops cannot be told with certainty."""


@dataclass(frozen=True, slots=True)
class Instruction:
    address: int
    mnemonic: str
    operands: tuple[str, ...]
    to_other_section: bool
    """The linker fills in a jump's target: it leaves the function."""

    @classmethod
    def parse(cls, address: str, text: str) -> Instruction:
        text, relocations = RELOCATION.subn("", text)
        text = text.partition("<")[0].partition("#")[0]
        words = text.split()
        while len(words) > 1 and words[0] in PREFIXES:
            words.pop(0)
        operands = tuple(" ".join(words[1:]).split(",")) if len(words) > 1 else ()
        return cls(int(address, 16), words[0], operands, to_other_section=relocations > 0)

    def __str__(self) -> str:
        return f"{self.mnemonic} {','.join(self.operands)}".rstrip()

    @property
    def jumps(self) -> bool:
        return self.mnemonic.startswith(("j", "loop"))

    @property
    def memory(self) -> str | None:
        """The memory operand, as ``base+index*scale+offset``; of a prefetch, a nop or lea none: they read nothing."""
        if self.mnemonic.startswith(("prefetch", "nop", "lea")):
            return None
        return next((found[1] for operand in self.operands if (found := MEMORY.search(operand))), None)

    @property
    def stores(self) -> bool:
        return self.memory is not None and "[" in self.operands[0]

    @property
    def vectors(self) -> bool:
        """Does it read or write a vector register?"""
        return any(VECTOR.match(operand) for operand in self.operands)


@dataclass(frozen=True, slots=True)
class Loop:
    instructions: tuple[Instruction, ...]
    stack: tuple[Instruction, ...]
    """Those that read or write the stack."""


Hot = Callable[[Sequence[Instruction]], bool]


@dataclass(frozen=True)
class Function:
    name: str
    """Demangled, with parameters and a ``[clone …]`` where the compiler made one."""

    instructions: Sequence[Instruction]

    @cached_property
    def _blocks(self) -> list[tuple[Instruction, ...]]:
        """Straight runs of instructions, in the order of their addresses."""
        starts = {self.instructions[0].address}
        for before, after in pairwise(self.instructions):
            if before.jumps or before.mnemonic in ENDS:
                starts.add(after.address)
                starts |= self._targets(before)
        starts |= self._targets(self.instructions[-1])
        blocks: list[list[Instruction]] = []
        for instruction in self.instructions:
            if instruction.address in starts:
                blocks.append([])
            blocks[-1].append(instruction)
        return [tuple(block) for block in blocks]

    def _targets(self, instruction: Instruction) -> set[int]:
        """Where a jump leads within this function. The way out is none: a tail call, or the cold part."""
        if not instruction.jumps or instruction.to_other_section:
            return set()
        try:
            target = int(instruction.operands[0], 16)
        except ValueError:
            raise UnreadableError(
                f"{self.name} jumps to a computed address at {instruction.address:#x} ({instruction}); "
                "keep switches out of micro-kernels"
            ) from None
        first, last = self.instructions[0].address, self.instructions[-1].address
        return {target} if first <= target <= last else set()

    @cached_property
    def _successors(self) -> list[set[int]]:
        number = {block[0].address: index for index, block in enumerate(self._blocks)}
        successors = []
        for index, block in enumerate(self._blocks):
            following = {number[target] for target in self._targets(block[-1])}
            if block[-1].mnemonic not in ENDS and index + 1 < len(self._blocks):
                following.add(index + 1)
            successors.append(following)
        return successors

    def innermost_loops(self, hot: Hot) -> list[Loop]:
        """The hot loops that contain no smaller hot loop.

        Loops that share their first block count as one: they cannot be told apart, and so nothing is missed.
        """
        found = []
        for blocks in self._innermost(set(range(len(self._blocks))), hot):
            inside = self._inside(blocks)
            found.append(Loop(inside, tuple(one for one in inside if one.address in self._stack_accesses)))
        return found

    def _inside(self, blocks: set[int]) -> tuple[Instruction, ...]:
        return tuple(instruction for block in sorted(blocks) for instruction in self._blocks[block])

    def _innermost(self, within: set[int], hot: Hot) -> Iterator[set[int]]:
        for component in _components(within, self._successors):
            # Without its first block a loop falls apart into the loops inside of it.
            entries = {
                block
                for before, following in enumerate(self._successors)
                if before not in component
                for block in following & component
            }
            inner = list(self._innermost(component - {min(entries or component)}, hot))
            if inner:
                yield from inner
            elif hot(self._inside(component)):
                yield component

    @cached_property
    def _stack_accesses(self) -> set[int]:
        """Addresses of the instructions whose memory operand lies on the stack.

        rbp and every other register may hold a stack address here and something else there, so what holds one
        is followed from rsp through copies, lea and arithmetic, along all paths. In doubt a register keeps it.
        """
        holders: list[frozenset[str] | None] = [None] * len(self._blocks)
        holders[0] = frozenset({"rsp"})
        waiting = [0]
        while waiting:
            number = waiting.pop()
            after = holders[number]
            assert after is not None
            for instruction in self._blocks[number]:
                after = _after(instruction, after)
            for following in self._successors[number]:
                known = holders[following]
                joined = after if known is None else known | after
                if joined != known:
                    holders[following] = joined
                    waiting.append(following)
        accesses = set()
        for block, before in zip(self._blocks, holders, strict=True):
            now = before or frozenset({"rsp"})  # None: no path leads here
            for instruction in block:
                if instruction.memory is not None and _registers(instruction.memory) & now:
                    accesses.add(instruction.address)
                now = _after(instruction, now)
        return accesses


def functions(path: Path, objdump: str, wanted: Callable[[str], bool]) -> list[Function]:
    """The functions of an object file with a wanted demangled name."""
    listing = subprocess.run(
        [objdump, "-d", "-r", "-w", "-C", "-M", "intel", "--no-show-raw-insn", str(path)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return parse(listing, wanted)


def parse(listing: str, wanted: Callable[[str], bool]) -> list[Function]:
    """The wanted functions of what ``objdump -d -r -w -C -M intel --no-show-raw-insn`` printed."""
    found: list[Function] = []
    instructions: list[Instruction] | None = None
    for line in listing.splitlines():
        header = HEADER.match(line)
        if header:
            instructions = [] if wanted(header[1]) else None
            if instructions is not None:
                found.append(Function(header[1], instructions))
        elif instructions is not None and (match := LINE.match(line)):
            if "(bad)" in match[2]:
                raise UnreadableError(f"objdump is too old for {found[-1].name} at {match[1]}")
            instructions.append(Instruction.parse(match[1], match[2]))
    return [function for function in found if function.instructions]


# ---- which registers hold a stack address ------------------------------------------------------------------------

_WIDE = {f"e{name}": f"r{name}" for name in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp")}
_WIDE |= {name: name for name in _WIDE.values()}
_WIDE |= {f"r{number}{suffix}": f"r{number}" for number in range(8, 16) for suffix in ("", "d")}
_NAME = re.compile(r"[a-z]\w*")
_LOST_IN_CALLS = frozenset({"rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11"})
_COPIES = frozenset({"mov", "movabs", "lea", "movd", "movq", "vmovd", "vmovq"})
_OVERWRITES = _COPIES | {"movzx", "movsx", "movsxd", "popcnt", "lzcnt", "tzcnt"}
_READS_ONLY = frozenset({"cmp", "test", "bt", "push", "nop", "pop", "leave"})


def _registers(text: str) -> set[str]:
    return {_WIDE.get(name, name) for name in _NAME.findall(text)}


def _place(operand: str) -> str:
    """A register's full name, or a memory operand without its size."""
    found = MEMORY.search(operand)
    return found[0] if found else _WIDE.get(operand, operand)


def _after(instruction: Instruction, holders: frozenset[str]) -> frozenset[str]:
    """The places that hold a stack address after an instruction.

    Places are registers, vector registers (compilers park addresses there) and stack slots by their text. What
    pop and leave restore keeps what it had: at worst an access is taken for one to the stack.
    """
    mnemonic, operands = instruction.mnemonic, instruction.operands
    if mnemonic == "call":
        return holders - _LOST_IN_CALLS
    if not operands or instruction.jumps or mnemonic in _READS_ONLY or mnemonic.startswith("prefetch"):
        return holders
    target, sources = _place(operands[0]), operands[1:]
    if mnemonic == "xchg" and holders & set(map(_place, operands)):
        return holders | set(map(_place, operands))
    if target not in _WIDE.values() and mnemonic not in _COPIES:
        return holders
    if mnemonic == "lea":
        held = bool(_registers(MEMORY.search(sources[0])[1]) & holders)  # type: ignore[index]
    else:
        held = any(_place(source) in holders for source in sources)
    same = mnemonic in ("xor", "sub") and operands[0] == operands[-1]
    overwritten = mnemonic in _OVERWRITES or len(operands) >= 3 or same
    if held and not same:
        return holders | {target}
    return holders - {target} if overwritten and target != "rsp" else holders


# ---- strongly connected components ---------------------------------------------------------------------------------


def _components(within: set[int], successors: Sequence[set[int]]) -> Iterator[set[int]]:
    """The sets of nodes that reach each other, and themselves, without leaving `within`."""
    forth = {node: successors[node] & within for node in within}
    back: dict[int, set[int]] = {node: set() for node in within}
    for node, following in forth.items():
        for other in following:
            back[other].add(node)
    left = set(within)
    while left:
        start = min(left)
        component = _reach(start, forth, left) & _reach(start, back, left)
        yield from [component] if component else []
        left -= component | {start}


def _reach(start: int, edges: Mapping[int, set[int]], within: set[int]) -> set[int]:
    """What can be reached in one step or more. A component lies wholly in `within` or wholly outside."""
    reached: set[int] = set()
    waiting = [start]
    while waiting:
        new = (edges[waiting.pop()] & within) - reached
        reached |= new
        waiting += new
    return reached
