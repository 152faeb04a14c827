"""The version, from the installed metadata; a source tree without it says so."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("tilewright")
except PackageNotFoundError:
    __version__ = "0+source"
