"""What `accelerate` did to a model: a table, a dictionary."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from tilewright.tables import rich_table, text_table

_COLUMNS = ("layer", "before", "after", "gain", "")


@dataclass(slots=True)
class Entry:
    """A layer, and what became of it."""

    layer: str
    """Its name in the model; of one with several names, all of them."""
    before: str
    """The modules that do the work: ``Conv2d + BatchNorm2d + ReLU``."""
    after: str | None
    """The layer that does it now; None if it was left as it is."""
    gain: float | None = None
    """Measured: how many times as fast, on the inputs that the layer gets."""
    note: str = ""
    """Why it was left as it is, or what else is to be said."""

    def cells(self) -> tuple[str, ...]:
        gain = "" if self.after is None and self.gain is None else "not measured"
        if self.gain is not None:
            gain = f"{self.gain:.2f}x"
        return self.layer or "(the model)", self.before, self.after or "as it was", gain, self.note


@dataclass(slots=True)
class Report:
    """What became of each layer. ``print`` it for a table, with rich installed for one in colours."""

    entries: list[Entry] = field(default_factory=list)
    memory_format: str = "as it was"
    """Of the convolutions' weights: ``channels_last`` where that was measured to be faster."""
    seconds_before: float | None = None
    seconds_after: float | None = None
    """Of one call of the model with `example_inputs`."""
    notes: list[str] = field(default_factory=list)

    @property
    def gain(self) -> float | None:
        """How many times as fast the model is; None if it was not measured."""
        if self.seconds_before is None or self.seconds_after is None:
            return None
        return self.seconds_before / self.seconds_after

    def to_dict(self) -> dict[str, Any]:
        """Plain data, fit for JSON."""
        return {
            "layers": [asdict(entry) for entry in self.entries],
            "memory_format": self.memory_format,
            "seconds_before": self.seconds_before,
            "seconds_after": self.seconds_after,
            "gain": self.gain,
            "notes": list(self.notes),
        }

    def summary(self) -> str:
        """The model as a whole, in a sentence."""
        count = sum(entry.after is not None for entry in self.entries)
        text = f"{count} of {len(self.entries)} layers accelerated"
        if self.gain is None:
            return f"{text}; nothing was measured (pass example_inputs)"
        before, after = (1e3 * (seconds or 0.0) for seconds in (self.seconds_before, self.seconds_after))
        laid_out = "" if self.memory_format == "as it was" else f", weights in {self.memory_format}"
        return f"{text}{laid_out}: {before:.3g} ms before, {after:.3g} ms after, {self.gain:.2f}x"

    def __str__(self) -> str:
        table = text_table(_COLUMNS, (entry.cells() for entry in self.entries))
        return "\n".join([table, *self.notes, self.summary()])

    def __rich__(self) -> Any:
        left_alone = {index for index, entry in enumerate(self.entries) if entry.after is None}
        rows = (entry.cells() for entry in self.entries)
        return rich_table(
            _COLUMNS, rows, right=("gain",), dim=left_alone, below=[*self.notes, self.summary()]
        )
