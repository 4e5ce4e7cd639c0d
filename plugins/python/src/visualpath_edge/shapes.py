"""The forms in which extractors and fusions are written, told apart once, by their signatures.

A plugin that has both methods of a pair (``extract`` and ``process``, ``process`` and ``update``)
has usually inherited one that hands on to the other: what its own class defines counts.
"""

from __future__ import annotations

import inspect
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Tuple

from .frame import Frame

_DEPS = ("deps", "dependencies", "depends", "observations")


class Deps(Dict[str, Any]):
    """Observations of the extractors that this one depends on, by name.

    Where one of them gave several for the frame, ``deps[name]`` is the first; ``deps.all(name)``
    are all of them. One that saw nothing is not in it.
    """

    def __init__(self, observations: Iterable[Tuple[str, Any]]):
        super().__init__()
        self._all: Dict[str, List[Any]] = {}
        for name, observation in observations:
            self.setdefault(name, observation)
            self._all.setdefault(name, []).append(observation)

    def all(self, name: str) -> List[Any]:
        return list(self._all.get(name, ()))


class Aligned(Dict[str, List[Any]]):
    """What was seen at one frame, by extractor, in the config's order. An extractor that looked and
    saw nothing has an empty list; one that has not looked, failed or is late is in ``missing``."""

    def __init__(
        self,
        observations: Dict[str, List[Any]],
        frame_id: int = 0,
        t_ns: int = 0,
        unix_ns: Optional[int] = None,
        source: Optional[str] = None,
        missing: Iterable[str] = (),
    ):
        super().__init__(observations)
        self.frame_id = frame_id
        #: Source time of the frame, nanoseconds.
        self.t_ns = t_ns
        #: Wall time of the frame, nanoseconds since 1970; for conditions such as "at night".
        self.unix_ns = unix_ns
        #: The camera's name in the config.
        self.source = source
        self.missing = list(missing)


class Extractor(NamedTuple):
    """How one extractor is called."""

    #: Takes a frame and, if ``wants_deps``, what it depends on.
    run: Callable[[Frame, Optional[Deps]], Any]
    wants_deps: bool


def of_extractor(plugin: Any) -> Extractor:
    """Raises TypeError for what has neither ``extract`` nor ``process``."""
    name = _own(plugin, "process", "extract")
    if name is None or hasattr(getattr(plugin, name), "to_write"):
        raise TypeError(f"{_called(plugin)} has no method extract(frame) or process(frame, deps)")
    method = getattr(plugin, name)
    parameters = _parameters(method)
    if _keyword_only(parameters, "deps"):
        return Extractor(lambda frame, deps: method(frame, deps=deps), True)
    second = _second(parameters)
    if second is None:
        return Extractor(lambda frame, deps: method(frame), False)
    if second.name in _DEPS or name == "process":
        return Extractor(lambda frame, deps: method(frame, deps), True)
    # extract(frame, frame_id): the frame is then the array itself.
    return Extractor(lambda frame, deps: method(frame.data, frame.frame_id), False)


class Fusion(NamedTuple):
    """How one fusion is called."""

    #: Takes observations by extractor, in the config's order, and gives its results.
    run: Callable[[Aligned], List[Any]]


def of_fusion(plugin: Any) -> Fusion:
    """Raises TypeError for what has neither ``process`` nor ``update``."""
    name = _own(plugin, "process", "update")
    if name is None:
        raise TypeError(f"{_called(plugin)} has no method process(observations) or update(observation)")
    method = getattr(plugin, name)
    needed = [
        p for p in _parameters(method)
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]  # fmt: skip
    if len(needed) > 1:
        given = ", ".join(p.name for p in needed)
        raise TypeError(
            f"{_called(plugin)}.{name}({given}) is no fusion, which takes observations alone; "
            "run it as an extractor"
        )
    if name == "process":
        return Fusion(lambda observations: [method(observations)])
    if _takes_a_list(method):
        return Fusion(lambda observations: [method(_in_order(observations))])
    return Fusion(lambda observations: [method(o) for o in _in_order(observations)])


def _in_order(observations: Dict[str, List[Any]]) -> List[Any]:
    return [o for of_one in observations.values() for o in of_one]


def _takes_a_list(update: Any) -> bool:
    parameters = _parameters(update)
    if not parameters:
        return False
    first = parameters[0]
    if first.annotation is not first.empty:
        annotation = first.annotation
        text = annotation if isinstance(annotation, str) else repr(annotation)
        if annotation is list or any(w in text for w in ("List[", "list", "Sequence", "Iterable")):
            return True
    return first.name in ("observations", "obs_list", "batch", "items")


def _own(plugin: Any, newer: str, older: str) -> Optional[str]:
    """Which of two methods is the plugin's own: that of the nearer class; of both, the newer."""
    there = [n for n in (newer, older) if callable(getattr(plugin, n, None))]
    if len(there) < 2:
        return there[0] if there else None
    return newer if _distance(plugin, newer) <= _distance(plugin, older) else older


def _distance(plugin: Any, name: str) -> int:
    if name in getattr(plugin, "__dict__", {}):
        return -1
    for distance, cls in enumerate(type(plugin).__mro__):
        if name in cls.__dict__:
            return distance
    return 0


def _parameters(method: Any) -> List[inspect.Parameter]:
    try:
        return list(inspect.signature(method).parameters.values())
    except (TypeError, ValueError):
        return []


def _keyword_only(parameters: List[inspect.Parameter], name: str) -> bool:
    return any(p.kind is p.KEYWORD_ONLY and p.name == name for p in parameters)


def _second(parameters: List[inspect.Parameter]) -> Optional[inspect.Parameter]:
    """The second positional parameter, if it is one that a host fills: a further parameter with a
    default of its own is the plugin's business."""
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(positional) < 2:
        return None
    second = positional[1]
    ours = second.name in _DEPS or second.name in ("frame_id", "frame_index")
    return second if second.default is second.empty or ours else None


def _called(plugin: Any) -> str:
    return type(plugin).__qualname__
