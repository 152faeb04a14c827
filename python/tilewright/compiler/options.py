"""The options of the compile backend."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any

from tilewright.errors import ArgumentError

_TAKES: dict[str, tuple[Any, ...]] = {
    "rest": ("inductor", "eager"),
    "freeze": (True, False),
    "fuse": ("faster", "always"),
}
_OPERATION = 'torch.compile(backend="tilewright")'


@dataclass(frozen=True)
class CompilerOptions:
    """What `tilewright.compiler.backend` was asked for."""

    rest: str = "inductor"
    freeze: bool = False
    fuse: str = "faster"
    inductor: dict[str, Any] = field(default_factory=dict)
    """Patches of Inductor's configuration."""

    @classmethod
    def parse(cls, options: dict[str, Any] | None, mode: str | None = None) -> CompilerOptions:
        """Checks what the user gave.

        Raises:
            ArgumentError: an unknown option, or a value that it does not take.
        """
        own: dict[str, Any] = {}
        others: dict[str, Any] = {}
        for name, value in (options or {}).items():
            if name not in _TAKES:
                others[name] = value
            elif type(value) is not type(_TAKES[name][0]) or value not in _TAKES[name]:
                raise ArgumentError(
                    f"{_OPERATION}: option {name} is {value!r}; expected {' or '.join(map(repr, _TAKES[name]))}; "
                    "correct it or leave it out"
                )
            else:
                own[name] = value
        if (others or mode not in (None, "default")) and own.get("rest") == "eager":
            given = ", ".join(sorted(others)) or f"mode {mode!r}"
            raise ArgumentError(
                f"{_OPERATION}: {given} given with rest='eager'; expected {_known()}; Inductor's options and modes "
                "go with rest='inductor'"
            )
        return cls(**own, inductor=_inductor_patches(others, mode))


def _known() -> str:
    return ", ".join(
        f"{name} ({' or '.join(map(repr, takes))}; default {getattr(CompilerOptions, name)!r})"
        for name, takes in _TAKES.items()
    )


def _inductor_patches(others: dict[str, Any], mode: str | None) -> dict[str, Any]:
    if not others and mode in (None, "default"):
        return {}
    from torch._inductor import config, list_mode_options

    patches: dict[str, Any] = {}
    if mode not in (None, "default"):
        modes = list_mode_options()
        if mode not in modes:
            raise ArgumentError(f"{_OPERATION}: mode is {mode!r}; expected one of {', '.join(modes)}")
        patches.update(modes[mode])
    known = config.get_config_copy()
    for name, value in others.items():
        attribute = name.replace("-", "_")
        if attribute not in known:
            near = difflib.get_close_matches(name, [*_TAKES, *known], 3)
            raise ArgumentError(
                f"{_OPERATION}: option {name!r} is unknown; expected {_known()}, or an option of Inductor's "
                f"(torch._inductor.list_options()); {'did you mean ' + ', '.join(near) if near else 'leave it out'}"
            )
        patches[attribute] = value
    return patches
