"""Base classes of plugins. None is needed: a plugin is whatever has the methods."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

from .isolation import IsolationLevel


def _to_write(method: Any) -> Any:
    """Marks a method that stands for one which a subclass must have."""
    method.to_write = True
    return method


class _Plugin:
    name: Any = ""
    version: Any = ""

    def __init__(self, config: Optional[Dict[str, Any]] = None):
        self.config: Dict[str, Any] = dict(config or {})

    def initialize(self) -> None:
        """Loads what takes time; called once before the first frame."""

    def cleanup(self) -> None:
        """Called once at the end, unless the process is killed."""

    def reset(self) -> None:
        """Forgets earlier frames: the next one does not follow them."""

    @property
    def recommended_isolation(self) -> IsolationLevel:
        return IsolationLevel.VENV

    def __enter__(self) -> Any:
        self.initialize()
        return self

    def __exit__(self, *_: Any) -> None:
        self.cleanup()


class BaseExtractor(_Plugin):
    """Looks at one frame and says what it sees.

    A subclass has one of ``extract(self, frame, frame_id)`` (``frame`` is the array),
    ``extract(self, frame)`` and ``process(self, frame, deps)`` (``frame`` is a ``Frame``).
    """

    #: Extractors whose observations of the same frame it needs, by their names in the config.
    depends: List[str] = []

    @_to_write
    def extract(self, frame: Any, *more: Any, **named: Any) -> Any:
        raise NotImplementedError(f"{type(self).__qualname__}.extract")


class Module(_Plugin):
    """The newer form of an extractor: ``process(self, frame, deps)``."""

    depends: List[str] = []

    @_to_write
    def process(self, frame: Any, deps: Optional[Dict[str, Any]] = None) -> Any:
        raise NotImplementedError(f"{type(self).__qualname__}.process")

    def extract(self, frame: Any, deps: Optional[Dict[str, Any]] = None) -> Any:
        return self.process(frame, deps)


class BaseFusion(_Plugin):
    """Decides from aligned observations when something has happened.

    A subclass has ``process(self, observations)`` with a dict of lists by extractor, or
    ``update(self, observation)``, called for each in the extractors' order, or
    ``update(self, observations)`` with a list of them.
    """

    @property
    def is_gate_open(self) -> bool:
        return True

    @property
    def in_cooldown(self) -> bool:
        return False
