"""What a plugin may ask of its host, and the errors by which it says whose fault something is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, List

from .protocol import ExtractorSignals, Mask, Zone


class PluginError(Exception):
    """An error of a plugin; its subclasses say whose fault it is. Any other exception is the plugin's."""

    kind = "plugin"


class ConfigError(PluginError, ValueError):
    """A key of the config is wrong. Say which, and what would be right."""

    kind = "config"


class ModelError(PluginError):
    """A model is missing, damaged or not what it should be."""

    kind = "model"


class RuntimeMissing(PluginError):
    """Something to run with (an inference runtime, a decoder, a device) can't be had."""

    kind = "runtime"


@dataclass(frozen=True)
class Context:
    """Where a plugin runs: what the parent's hello told."""

    #: Its name in the config.
    name: str = ""
    #: Of the source: ``name``, ``polygon`` (corners x, y in 0–1 of the frame), ``anchor``.
    zones: List[Zone] = field(default_factory=list)
    #: Of the source: ``name``, ``kind``, ``polygon``. What lies in one of kind ``motion`` does not
    #: count as moving; those of kind ``objects`` are applied to what the plugin answers.
    masks: List[Mask] = field(default_factory=list)
    #: Directories where models are looked up, first match wins.
    model_dirs: List[Path] = field(default_factory=list)
    #: To a fusion: the extractors of its path (``name``, ``signals``, ``zones``).
    extractors: List[ExtractorSignals] = field(default_factory=list)

    def model(self, file: str) -> Path:
        """The first file of that name in ``model_dirs``. Raises :class:`ModelError`."""
        for directory in self.model_dirs:
            path = directory / file
            if path.is_file():
                return path
        looked = ", ".join(map(str, self.model_dirs)) or "nowhere: no model directories are configured"
        raise ModelError(f"model file {file} was not found; looked in {looked}")


def _nobody(percent: float, text: str) -> None:
    """Outside of a worker nobody waits."""


_now = Context()
_progress: Callable[[float, str], None] = _nobody


def context() -> Context:
    """The context of this worker; an empty one outside of a worker. Set before the class is made."""
    return _now


def progress(percent: float, text: str = "") -> None:
    """Says how far loading is (0–100). Each call gives a worker its full start time again; for use
    in the constructor and in ``initialize``. Does nothing outside of a worker."""
    _progress(float(percent), str(text))


def enter(now: Context, on_progress: Callable[[float, str], None]) -> None:
    """For the host: what :func:`context` gives and :func:`progress` does from now on."""
    global _now, _progress
    _now, _progress = now, on_progress
