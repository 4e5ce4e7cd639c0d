"""From what a fusion returned to the message ``result``.

Python's triggers say when, how sure and with how much before and after; the protocol's say more.
What a trigger does not say is filled in from the frame it was fired on:

==========================  ========================================================================
field                       from
==========================  ========================================================================
``label``                   the trigger's, made a name (lower case, other characters ``_``); the
                            fusion's name in the config if it has none
``kind``                    ``type`` or ``kind``; a range if it has a start and an end, else a point
``frame_id``, ``t_ns``      the last frame at or before the event
``event_*_ns``              ``event_time_ns``, or ``start_time_ns`` and ``end_time_ns``; the frame's
``t_start_ns``,             the event, less ``pre_sec`` (3) and plus ``post_sec`` (2)
``t_end_ns``
``score``, ``reason``       the trigger's, else the result's
``signals``, ``objects``    those of the frame's observations
==========================  ========================================================================

A range of a Python fusion is told when it is over. It becomes two triggers of one event, its start
and its end (``released``).
"""

from __future__ import annotations

import bisect
import json
import math
import operator
import re
from collections import deque
from typing import Any, Deque, Dict, Iterable, List, Optional, Tuple

from . import plain
from .forms import MAX_OBJECTS, MAX_SIGNALS, MAX_TRIGGERS, Bad, Body
from .protocol import FusionAnswer, Object, State, Trigger
from .reports import fitting

PRE_SEC, POST_SEC = 3.0, 2.0
#: Frames whose number can still be told by their time: ten minutes at 30 per second.
_REMEMBERED = 18_000

#: Words that no name may be: as in visualpath-core's `Name`.
_RESERVED = frozenset(
    "as break const continue else false for function if import in let loop namespace null package "
    "return true type var void while".split()
)


class BadResult(plain.BadAnswer):
    """A result that can't be sent."""


class Fusing:
    """Writes the answers of one fusion, whose name in the config is ``name``."""

    def __init__(self, name: str):
        self._name = name
        self._events: Dict[str, int] = {}
        self._times: Deque[Tuple[int, int]] = deque(maxlen=_REMEMBERED)
        self._now = (0, 0)

    def saw(self, frame_id: int, t_ns: int) -> None:
        """Remembers a settled frame."""
        self._now = (t_ns, frame_id)
        self._times.append(self._now)

    def reset(self) -> None:
        self._times.clear()

    def answer(self, results: Iterable[Any], observations: Dict[str, List[Any]]) -> FusionAnswer:
        """One answer of all that the fusion said about a frame. Raises :class:`BadResult`."""
        results = [r for r in _flat(results) if r is not None]
        answer = FusionAnswer(
            triggers=[], score=0.0, reason="", observations_used=0, metadata={}, states=None
        )
        reasons: List[str] = []
        states: Dict[str, bool] = {}
        used = 0
        for result in results:
            said = str(getattr(result, "reason", "") or "")
            if said and said not in reasons:
                reasons.append(said)
            answer.score = max(answer.score, _number("score", getattr(result, "score", 0.0) or 0.0))
            used += int(getattr(result, "observations_used", 0) or 0)
            answer.metadata.update(_object("metadata", getattr(result, "metadata", None), "trigger"))
            states.update(getattr(result, "states", None) or {})
            for trigger in _triggers(result):
                answer.triggers += self._mapped(trigger, result, observations)
        answer.reason = fitting("; ".join(reasons))
        answer.score = max([answer.score] + [t.score for t in answer.triggers])
        given = sum(len(of_one) for of_one in observations.values())
        answer.observations_used = min(used or given, 2**32 - 1)
        if len(answer.triggers) > MAX_TRIGGERS:
            raise BadResult(f"{len(answer.triggers)} triggers; at most {MAX_TRIGGERS} at a frame")
        if states:
            answer.states = [State(self._label(name), bool(on)) for name, on in states.items()]
        for trigger in answer.triggers:
            trigger.observations_used = answer.observations_used
        return answer

    def _label(self, said: Any) -> str:
        label = re.sub(r"[^a-z0-9_]", "_", str(said or self._name).lower())
        if not label[:1].isalpha():
            label = f"t_{label}"
        return f"{label}_" if label in _RESERVED else label[:128]

    def _mapped(self, trigger: Any, result: Any, observations: Dict[str, List[Any]]) -> List[Trigger]:
        """One trigger of a point, two of a range."""
        fired_ns, frame_id = self._now
        label = self._label(_said(trigger, "label"))
        start, end, is_range = _times(trigger, fired_ns)
        t_ns, frame_id = self._frame_at(start)
        own_frame = _said(trigger, "frame_id")
        pre_ns = _seconds(trigger, "pre_sec", "pre_s", PRE_SEC)
        post_ns = _seconds(trigger, "post_sec", "post_s", POST_SEC)
        event = self._events[label] = self._events.get(label, 0) + 1
        score = _said(trigger, "score") or getattr(result, "score", 0.0) or 0.0
        reason = _said(trigger, "reason") or getattr(result, "reason", "") or ""
        clip = _said(trigger, "clip")
        point = Trigger(
            label=label,
            kind="range" if is_range else "point",
            phase="point",
            event=event,
            frame_id=frame_id if own_frame is None else _integer("frame_id", own_frame),
            t_ns=t_ns,
            fired_ns=fired_ns,
            event_start_ns=start,
            event_end_ns=end,
            t_start_ns=start - pre_ns,
            t_end_ns=end + post_ns,
            score=_number("score", score),
            reason=fitting(str(reason)),
            observations_used=0,
            signals=_signals(trigger, observations),
            objects=_objects(trigger, observations),
            clip=clip is None or bool(clip),
            metadata=_object("metadata", _said(trigger, "metadata")),
        )
        if not is_range:
            return [point]
        first = Trigger(**{**vars(point), "phase": "start"})
        last = Trigger(**{**vars(point), "phase": {"end": {"reason": "released"}}})
        return [first, last]

    def _frame_at(self, t_ns: int) -> Tuple[int, int]:
        """Time and number of the last frame at or before ``t_ns``, as far as they are known."""
        index = bisect.bisect_right(self._times, (t_ns, 2**64))
        return self._times[index - 1] if index else (self._times[0] if self._times else self._now)


def _flat(results: Iterable[Any]) -> Iterable[Any]:
    for result in results:
        if isinstance(result, (list, tuple)):
            yield from result
        else:
            yield result


def _triggers(result: Any) -> List[Any]:
    """A result's triggers, in either form; a result that fires without one has a plain one."""
    several = getattr(result, "triggers", None)
    if several:
        return list(several)
    fires = getattr(result, "should_trigger", None)
    if callable(fires):
        fires = fires()
    if several is None and fires is None:
        raise BadResult(
            f"expected a FusionResult or None, got {type(result).__qualname__}: it has neither "
            "triggers nor should_trigger"
        )
    if not fires:
        return []
    trigger = getattr(result, "trigger", None)
    return [{} if trigger is None else trigger]


def _said(trigger: Any, name: str) -> Any:
    return trigger.get(name) if isinstance(trigger, dict) else getattr(trigger, name, None)


def _times(trigger: Any, now: int) -> Tuple[int, int, bool]:
    """Start and end of the event, and whether it is a range."""
    kind = _said(trigger, "type") or _said(trigger, "kind") or ""
    kind = str(getattr(kind, "value", kind)).lower()
    start, end = _said(trigger, "start_time_ns"), _said(trigger, "end_time_ns")
    if kind == "range" or (not kind and start is not None and end is not None):
        start = now if start is None else _integer("start_time_ns", start)
        end = now if end is None else _integer("end_time_ns", end)
        if end < start:
            raise BadResult(f"a range from {start} to {end}")
        return start, end, True
    event = _said(trigger, "event_time_ns")
    if event is None:
        event = _said(trigger, "t_ns")
    event = now if event is None else _integer("event_time_ns", event)
    return event, event, False


def _integer(what: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        if not (isinstance(value, float) and value.is_integer()):
            raise BadResult(f"{what} of a trigger is {value!r}: expected an integer") from None
        number = int(value)
    if not -(2**62) <= number < 2**62:
        raise BadResult(f"{what} of a trigger is {number}: out of range")
    return number


def _seconds(trigger: Any, name: str, other: str, default: float) -> int:
    value = _said(trigger, name)
    value = _said(trigger, other) if value is None else value
    seconds = _number(name, default if value is None else value)
    if not 0 <= seconds <= 86_400:
        raise BadResult(f"{name} of a trigger is {seconds}: expected 0 to 86400 seconds")
    return round(seconds * 1e9)


def _number(what: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise BadResult(f"{what} is {value!r}: expected a number") from None
    if not math.isfinite(number):
        raise BadResult(f"{what} is {number}: numbers must be finite")
    return number


def _object(what: str, value: Any, *without: str) -> Dict[str, Any]:
    if not value:
        return {}
    if isinstance(value, dict):
        value = {k: v for k, v in value.items() if k not in without}
    told = json.loads(plain.text_of(value, what))
    if not isinstance(told, dict):
        raise BadResult(f"{what} is a {type(value).__qualname__}, not a dict")
    return told


def _signals(trigger: Any, observations: Dict[str, List[Any]]) -> Dict[str, float]:
    own = _said(trigger, "signals")
    if own:
        return {str(name): _number(f"signal {name!r}", value) for name, value in own.items()}
    merged: Dict[str, float] = {}
    for extractor, of_one in observations.items():
        for observation in of_one:
            for name, value in observation.signals.items():
                name = f"{extractor}.{name}"
                if name in merged or len(merged) < MAX_SIGNALS:
                    merged[name] = max(merged.get(name, value), value)
    return merged


def _objects(trigger: Any, observations: Dict[str, List[Any]]) -> List[Object]:
    """Objects of the frame; what is no object of the platform's is passed over."""
    given: List[Any] = list(_said(trigger, "objects") or [])
    if not given:
        for of_one in observations.values():
            for observation in of_one:
                data = observation.data
                if isinstance(data, dict) and isinstance(data.get("objects"), list):
                    given += data["objects"]
    objects = []
    for value in given[:MAX_OBJECTS]:
        try:
            objects.append(_object_of(value))
        except (Bad, AttributeError, TypeError, plain.NotJson):
            continue
    return objects


def _object_of(value: Any) -> Object:
    told: Optional[Dict[str, Any]] = json.loads(plain.text_of(value, "object"))
    return Body(Object).read({"area": 0.0, "zones": [], "keypoints": [], **(told or {})})
