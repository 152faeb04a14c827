"""The exceptions that tilewright raises.

Every message names the operation, the argument, what it got, what it takes and what to do about it::

    matmul: b has shape (512, 64); expected (K, N) with K = 768 to match a (..., 768); transpose or reshape b

Each class also derives from the built-in exception that Python programmers would catch for it.
"""


class Error(Exception):
    """Base of everything that tilewright raises on purpose."""


class ArgumentError(Error, ValueError):
    """An argument that is not a tensor's shape, dtype or layout: an activation, an option, a name."""


class ShapeError(Error, ValueError):
    """Sizes that do not fit together."""


class DtypeError(Error, TypeError):
    """A dtype that the operation does not take, or dtypes that do not fit together."""


class LayoutError(Error, ValueError):
    """A memory layout that the operation does not take (sparse, nested, opaque tensors)."""


class FormatError(Error, ValueError):
    """Stored data (a compressed weight, a cache row, a table) that is malformed."""


class DeviceError(Error, RuntimeError):
    """Tensors on different devices, a device without a kernel, or a failing launch."""


class TuningError(Error, RuntimeError):
    """Tuning could not be done, or no candidate survived it."""
