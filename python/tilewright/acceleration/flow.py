"""Which modules take a call's result next and nobody else ever sees it: read from the source of the calling function.

A layer may do the work of those that follow it (`fused.py`) only where its result certainly goes to them and to nothing
else. Two forms of source say so, whatever runs before or after, and whatever values there are::

    self.relu(self.bn(self.conv(x)))        one call is the only argument of another

    x = self.conv(x)                        a result gets a name; the next statement reads it once, as the only
    x = self.bn(x)                          argument of a call that is evaluated in any case; and it gives the name
                                            away, returns, or nothing after it reads the name

Callees are attributes of the function's first argument (``self.block.conv``, ``self.layers[0]``). Anything else is
taken for unknown: names for modules, loops, branches in between. One loop is known, that of `torch.nn.Sequential`.

The code is not run, traced or rewritten. A `Site` is an instruction of the function's code; the layer looks for it in
the frame that called, so that a call from anywhere else (a notebook, a hook, another container) is just a call.
"""

from __future__ import annotations

import ast
import dis
import inspect
import threading
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any

import torch

Path = tuple[str, ...]
"""Names of modules, each a child of the one before; the first is the caller's."""

Followed = tuple[Path, tuple[Path, ...]]
"""The callee, and those that take its result, one after the other."""

SEQUENTIAL: CodeType = torch.nn.Sequential.forward.__code__
_WRAPPED: CodeType = torch.nn.Module._wrapped_call_impl.__code__
_CALL: CodeType = torch.nn.Module._call_impl.__code__
_IN_ORDER = torch.nn.Sequential.__iter__
_MOST_FOLLOWERS = 2

_SEES_LOCALS = frozenset({"locals", "vars", "dir", "eval", "exec"})
"""Functions by which code may hold on to the dictionary of its variables, which looking for the caller changes."""

_TELLING = ("CALL", "LOAD_ATTR", "LOAD_METHOD", "LOAD_FAST", "STORE_FAST")

_DEFINITE = (
    ast.Call,
    ast.BinOp,
    ast.UnaryOp,
    ast.Tuple,
    ast.List,
    ast.Starred,
    ast.keyword,
    ast.Attribute,
    ast.Subscript,
)
"""Expressions that evaluate all of their parts in any case."""


def caller_of(frame: FrameType | None) -> FrameType | None:
    """The frame that called a module, given the one that called the module's ``forward``; None if it is not plain."""
    outer = None if frame is None or frame.f_code is not _CALL else frame.f_back
    return None if outer is None or outer.f_code is not _WRAPPED else outer.f_back


class Flow:
    """What a function does with the results of its calls."""

    __slots__ = ("calls", "code", "owner", "readable")

    def __init__(self, code: CodeType) -> None:
        self.code = code  # kept, so that no other code comes to have its id
        self.readable = code is SEQUENTIAL
        self.owner = code.co_varnames[0] if code.co_argcount else ""
        """The name of the function's first argument."""
        self.calls: dict[int, Followed] = {}
        """Instruction -> the callee, and who takes its result, for calls whose results somebody takes."""
        if self.owner and code is not SEQUENTIAL and _SEES_LOCALS.isdisjoint(code.co_names):
            function = _parsed(code)
            self.readable = function is not None
            found = {} if function is None else dict(_read(function, self.owner))
            for instruction in dis.get_instructions(code):
                where = instruction.positions
                if where is not None and "CALL" in instruction.opname:
                    at = found.get((where.end_lineno, where.end_col_offset))
                    if at is not None:
                        self.calls[instruction.offset] = at


_flows: dict[int, Flow] = {}
_lock = threading.Lock()
_hidden: dict[tuple[type, str], bool] = {}
"""(Class, name) -> whether an attribute of the class hides modules of that name."""


def flow_of(code: CodeType) -> Flow:
    """What is known of a function. Read once for each."""
    found = _flows.get(id(code))
    if found is None:
        with _lock:
            found = _flows.get(id(code))
            if found is None:
                found = _flows[id(code)] = Flow(code)
    return found


def functions_of(module: torch.nn.Module) -> Iterator[CodeType]:
    """The code of every function of the module's class that could call its children."""
    for base in type(module).__mro__:
        if base is torch.nn.Module:
            return
        for value in vars(base).values():
            function = inspect.unwrap(value) if callable(value) else value
            if inspect.isfunction(function):
                yield function.__code__


def child(module: Any, path: Path) -> Any:
    """The module at a path; None if there is none, or if Python would find something else under one of the names."""
    for name in path:
        place = type(module), name
        hidden = _hidden.get(place)
        if hidden is None:
            hidden = _hidden[place] = hasattr(*place)
        module = None if hidden else module.__dict__["_modules"].get(name)
        if module is None:
            return None
    return module


def after_in_sequence(owner: Any, layer: Any) -> tuple[Path, ...]:
    """Who takes a layer's result in an `nn.Sequential`; nobody if the layer is in it more than once."""
    if type(owner).__iter__ is not _IN_ORDER:
        return ()
    modules = owner.__dict__["_modules"]
    members = list(modules.values())
    if members.count(layer) != 1:
        return ()
    place = members.index(layer) + 1
    return tuple((name,) for name in list(modules)[place : place + _MOST_FOLLOWERS])


# --- reading ------------------------------------------------------------------------------------------------------

_Place = tuple[int | None, int | None]


def _read(function: ast.FunctionDef, owner: str) -> Iterator[tuple[_Place, Followed]]:
    """Where each call ends that is followed by others: its callee and them."""
    if _rebound(function, owner):
        return
    reader = _Reader(function, owner)
    for call, path in reader.calls.items():
        followers: list[Path] = []
        after = reader.next.get(call)
        while after is not None and len(followers) < _MOST_FOLLOWERS:
            followers.append(reader.calls[after])
            after = reader.next.get(after)
        if followers:
            yield (call.end_lineno, call.end_col_offset), (path, tuple(followers))


def _parsed(code: CodeType) -> ast.FunctionDef | None:
    """The function's syntax tree, with the line and column numbers of its file; None where there is no source."""
    try:
        source = "".join(inspect.getsourcelines(code)[0])
        # Kept as it is indented, so that columns agree with the code's.
        tree = ast.parse(f"class _:\n{source}" if source[:1].isspace() else f"\n{source}")
        ast.increment_lineno(tree, code.co_firstlineno - 2)
        compiled = compile(tree, code.co_filename, "exec", dont_inherit=True)
    except (OSError, TypeError, SyntaxError, ValueError):
        return None
    found = [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == code.co_name
    ]
    # The file may have been edited since it was imported.
    same = [other for other in _codes(compiled) if other.co_name == code.co_name]
    if len(found) != 1 or len(same) != 1 or _outline(same[0]) != _outline(code):
        return None
    return found[0]


def _codes(code: CodeType) -> Iterator[CodeType]:
    """The code of the functions inside, at any depth."""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


def _outline(code: CodeType) -> list[tuple[Any, ...]]:
    """What is called, read and written where."""
    return [
        # Python 3.11 loads methods of modules that the file imports, and no others, as attributes.
        (instruction.opname.replace("METHOD", "ATTR"), instruction.argval, instruction.positions)
        for instruction in dis.get_instructions(code)
        if instruction.opname.startswith(_TELLING)
    ]


def _rebound(function: ast.FunctionDef, owner: str) -> bool:
    """Whether the function's first argument may come to mean something else."""
    return any(
        isinstance(node, ast.Name) and node.id == owner and not isinstance(node.ctx, ast.Load)
        for node in ast.walk(function)
    )


class _Reader:
    """The calls of modules in a function, and which call takes which one's result."""

    def __init__(self, function: ast.FunctionDef, owner: str) -> None:
        self.owner = owner
        self.calls: dict[ast.Call, Path] = {}
        self.next: dict[ast.Call, ast.Call] = {}
        self.loads: dict[str, list[tuple[int, int]]] = {}
        """Name -> where it is read, by line and column."""
        self.captured: set[str] = set()
        for node in ast.walk(function):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                self.loads.setdefault(node.id, []).append((node.lineno, node.col_offset))
            elif isinstance(node, (ast.Global, ast.Nonlocal)):
                self.captured.update(node.names)
        self._scope(function)

    def _scope(self, function: ast.FunctionDef) -> None:
        """Everything that the function itself runs, and not functions and comprehensions inside it."""
        waiting: list[ast.AST] = list(function.body)
        while waiting:
            node = waiting.pop()
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)) or hasattr(
                node, "generators"
            ):
                inner = (part for part in ast.walk(node) if isinstance(part, ast.Name))
                self.captured.update(name.id for name in inner)
                continue
            path = self._callee(node)
            if path is not None:
                assert isinstance(node, ast.Call)
                self.calls[node] = path
            waiting.extend(ast.iter_child_nodes(node))
        for call in self.calls:
            inner_call = _only_argument(call)
            if isinstance(inner_call, ast.Call) and inner_call in self.calls:
                self.next[inner_call] = call
        for body, in_loop in _bodies(function):
            for index, first in enumerate(body):
                name = _assigned(first)[0]
                second = next((later for later in body[index + 1 :] if not _clears_other(later, name)), None)
                if second is not None:
                    self._named(first, second, in_loop)

    def _named(self, first: ast.stmt, second: ast.stmt, in_loop: bool) -> None:
        """``x = call(...)`` and then a statement that hands x on."""
        name, value = _assigned(first)
        if name is None or not isinstance(value, ast.Call) or value not in self.calls:
            return
        if name in self.captured or name == self.owner:
            return
        target, expression = _assigned(second)
        if isinstance(second, ast.Return):
            expression = second.value
        elif target is None:
            return
        if expression is None or _count(expression, name) != 1:
            return
        if not (isinstance(second, ast.Return) or target == name):
            places, end = self.loads[name], (second.end_lineno or 0, second.end_col_offset or 0)
            if len(places) > 1 if in_loop else max(places) > end:
                return
        taker = _definite_taker(expression, name)
        if taker is not None and taker in self.calls:
            self.next[value] = taker

    def _callee(self, node: ast.AST) -> Path | None:
        if not isinstance(node, ast.Call):
            return None
        names: list[str] = []
        callee: ast.expr = node.func
        while not isinstance(callee, ast.Name):
            if isinstance(callee, ast.Attribute):
                names.append(callee.attr)
                callee = callee.value
            elif isinstance(callee, ast.Subscript) and isinstance(callee.slice, ast.Constant):
                key = callee.slice.value
                if not isinstance(key, str) and (type(key) is not int or key < 0):
                    return None
                names.append(str(key))
                callee = callee.value
            else:
                return None
        return tuple(reversed(names)) if names and callee.id == self.owner else None


def _bodies(function: ast.FunctionDef) -> Iterator[tuple[list[ast.stmt], bool]]:
    """The function's blocks of statements, and whether they are in a loop; not those of functions inside it."""
    waiting: list[tuple[ast.AST, bool]] = [(function, False)]
    while waiting:
        node, in_loop = waiting.pop()
        in_loop = in_loop or isinstance(node, (ast.For, ast.AsyncFor, ast.While))
        for _, value in ast.iter_fields(node):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                yield value, in_loop
        waiting.extend(
            (part, in_loop)
            for part in ast.iter_child_nodes(node)
            if not isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.expr))
        )


def _only_argument(call: ast.Call) -> ast.expr | None:
    return call.args[0] if len(call.args) == 1 and not call.keywords else None


def _assigned(statement: ast.stmt) -> tuple[str | None, ast.expr | None]:
    """The one name that a statement assigns to, and the value."""
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        target: ast.expr = statement.targets[0]
    elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
        target = statement.target
    else:
        return None, None
    return (target.id, statement.value) if isinstance(target, ast.Name) else (None, None)


def _clears_other(statement: ast.stmt, name: str | None) -> bool:
    """``other = None``, which generated code has between its calls."""
    other, value = _assigned(statement)
    return isinstance(value, ast.Constant) and other != name


def _count(expression: ast.expr, name: str) -> int:
    return sum(isinstance(node, ast.Name) and node.id == name for node in ast.walk(expression))


def _definite_taker(expression: ast.expr, name: str) -> ast.Call | None:
    """The call with the name as its only argument, if it is evaluated whenever the expression is."""
    waiting: list[ast.AST] = [expression]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Call):
            argument = _only_argument(node)
            if isinstance(argument, ast.Name) and argument.id == name:
                return node
        if isinstance(node, _DEFINITE):
            waiting.extend(ast.iter_child_nodes(node))
    return None
