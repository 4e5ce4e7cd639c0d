"""Mappers: what of an observation goes over the wire where its ``data`` is more than JSON can say.

Mappers are asked in order, the one added last first; the first that takes the observation wins.
After them come dataclasses and plain JSON, which takes everything and raises for what it can't say.

A plugin adds its own by ``MAPPERS.add_mapper(…)``, or has it (or a list) as its attribute
``observation_mapper``.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any, Callable, Dict, List, Optional, Protocol, runtime_checkable

from . import plain
from .observation import Observation


@runtime_checkable
class ObservationMapper(Protocol):
    """What a mapper has. ``from_message`` may be left out."""

    def to_message(self, observation: Any) -> Optional[str]:
        """JSON text, or a dict, of the observation: with a key ``data``, the whole of it (its
        ``signals`` and ``metadata`` are taken from there too), else its data alone. Text that is
        no JSON arrives as ``data.message``. None leaves it to the next mapper."""

    def from_message(self, message: str) -> Any:
        """The observation of such a text; None leaves it to the next mapper."""


class DefaultObservationMapper:
    """Plain JSON: everything that :mod:`visualpath_edge.plain` knows."""

    def to_message(self, observation: Any) -> Optional[str]:
        return json.dumps(document(observation), ensure_ascii=False)

    def from_message(self, message: str) -> Any:
        try:
            told = json.loads(message)
        except ValueError:
            return None
        if not isinstance(told, dict) or "source" not in told:
            return None
        return observation_class()(**{k: told[k] for k in _FIELDS if k in told})


class DataclassMapper:
    """``data`` that is a dataclass: its fields by name."""

    def to_message(self, observation: Any) -> Optional[str]:
        data = getattr(observation, "data", None)
        if not dataclasses.is_dataclass(data) or isinstance(data, type):
            return None
        return json.dumps(document(observation), ensure_ascii=False)

    def from_message(self, message: str) -> Any:
        return None


class CompositeMapper:
    """Mappers in order; the first that takes it wins."""

    def __init__(self, mappers: Optional[List[Any]] = None):
        self._mappers = list(mappers or [])

    def add_mapper(self, mapper: Any) -> None:
        """Puts a mapper in front of all others."""
        self._mappers.insert(0, mapper)

    def __len__(self) -> int:
        return len(self._mappers)

    def to_message(self, observation: Any) -> Any:
        return self._first("to_message", observation)

    def from_message(self, message: str) -> Any:
        return self._first("from_message", message)

    def _first(self, way: str, value: Any) -> Any:
        for mapper in self._mappers:
            method: Optional[Callable[[Any], Any]] = getattr(mapper, way, None)
            told = method(value) if method is not None else None
            if told is not None:
                return told
        return None


#: Mappers that plugins added. The host itself does what the other two do, without the detour.
MAPPERS = CompositeMapper()

_FIELDS = ("source", "frame_id", "t_ns", "signals", "data", "metadata", "timing", "confidence")


def document(observation: Any) -> Dict[str, Any]:
    """Every field of an observation, of plain types."""
    told = {name: getattr(observation, name, None) for name in _FIELDS}
    return json.loads(plain.text_of(told, "observation"))


def observation_class() -> Any:
    """The class that plugins are given observations of: that of the venv's own ``visualpath`` if
    the plugin uses it, else ours."""
    core = sys.modules.get("visualpath.core")
    return getattr(core, "Observation", Observation)
