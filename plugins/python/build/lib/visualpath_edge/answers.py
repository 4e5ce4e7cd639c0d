"""From what an extractor returned to the bytes of ``observations``, and back for what it depends on.

An answer is put together as text, piece by piece: the parts that never change (names) are made
once, numbers are written as they are, and only ``data`` and ``metadata`` go through an encoder.
"""

from __future__ import annotations

import json
import math
import operator
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from . import mapping, plain, protocol
from .forms import MAX_NAME_BYTES, MAX_OBSERVATIONS, MAX_SIGNALS
from .protocol import PROTOCOL

#: Names of signals whose JSON is kept.
_MAX_NAMES = 1024
_MISSING = object()


class BadObservation(plain.BadAnswer):
    """An observation that can't be sent."""


class Answers:
    """Writes the answers of one extractor, whose name in the config is ``name``."""

    def __init__(self, name: str, own_mappers: Optional[List[Any]] = None):
        self._name = json.dumps(name, ensure_ascii=False)
        self._own = own_mappers or []
        self._names: Dict[str, str] = {}

    def observations(self, id: int, frame_id: int, items: List[Any], extract_ns: int, total_ns: int) -> bytes:
        """The message. Raises :class:`BadObservation`."""
        if len(items) > MAX_OBSERVATIONS:
            raise BadObservation(
                f"{len(items)} observations; at most {MAX_OBSERVATIONS} are allowed for a frame"
            )
        written = []
        for index, item in enumerate(items):
            try:
                written.append(self._one(item, frame_id))
            except plain.BadAnswer as error:
                where = f"observation {index}: " if len(items) > 1 else ""
                raise BadObservation(f"{where}{error}") from None
        data = (
            f'{{"v":{PROTOCOL},"id":{id},"type":"observations","items":[{",".join(written)}],'
            f'"timing":{{"extract_ns":{extract_ns},"total_ns":{total_ns}}}}}'
        ).encode()
        try:
            protocol.check_bytes(data)
        except protocol.ProtocolError as error:
            raise BadObservation(f"the answer is too large: {error}") from None
        return data

    def _one(self, observation: Any, frame_id: int) -> str:
        signals = getattr(observation, "signals", _MISSING)
        if signals is _MISSING:
            raise BadObservation(
                f"expected an Observation, got {type(observation).__qualname__}"
            )
        data = getattr(observation, "data", None)
        metadata = getattr(observation, "metadata", None)
        if self._own or mapping.MAPPERS:
            signals, data, metadata = self._mapped(observation, signals, data, metadata)
        confidence = getattr(observation, "confidence", None)
        timing = getattr(observation, "timing", None)
        if timing is not None:
            metadata = {"timing": timing, **(metadata or {})}
        return (
            f'{{"extractor":{self._name},"frame_id":{frame_id},"t_ns":{_time(observation)},'
            f'"signals":{self._signals(signals)},"data":{_data(data)},'
            f'"metadata":{_metadata(metadata)},'
            f'"confidence":{"null" if confidence is None else repr(_number("confidence", confidence))},'
            '"timing_ns":null}'
        )

    def _signals(self, signals: Any) -> str:
        if not signals:
            return "{}"
        if not hasattr(signals, "items"):
            raise BadObservation(f"signals is a {type(signals).__qualname__}, not a dict")
        written = []
        for name, value in signals.items():
            # `x - x` is 0 for every finite float, and quicker than a call.
            if type(value) is not float or value - value != 0.0:
                if isinstance(value, np.ndarray) and value.size != 1:
                    written += self._array(name, value)
                    continue
                value = _number(f"signal {name!r}", value)
            written.append(f"{self._names.get(name) or self._quoted(name)}:{value!r}")
        if len(written) > MAX_SIGNALS:
            raise BadObservation(
                f"{len(written)} signals; at most {MAX_SIGNALS} are allowed: put vectors into data"
            )
        return f'{{{",".join(written)}}}'

    def _array(self, name: Any, values: np.ndarray) -> List[str]:
        """An array is one signal per element: ``name_0``, ``name_1``, …, row by row."""
        if values.size > MAX_SIGNALS:
            raise BadObservation(
                f"signal {name!r} has {values.size} elements; at most {MAX_SIGNALS} signals are "
                "allowed: put vectors into data"
            )
        return [
            f"{self._quoted(f'{name}_{i}')}:{_number(f'signal {name!r}[{i}]', value)!r}"
            for i, value in enumerate(values.ravel().tolist())
        ]

    def _quoted(self, name: Any) -> str:
        if not isinstance(name, str):
            raise BadObservation(f"a signal's name that is no string: {name!r}")
        try:
            length = len(name.encode())
        except UnicodeEncodeError:
            raise BadObservation(f"signal {name!r}: a lone surrogate in its name") from None
        if length > MAX_NAME_BYTES:
            raise BadObservation(f"a signal's name of {length} bytes; at most {MAX_NAME_BYTES}")
        quoted = json.dumps(name, ensure_ascii=False)
        if len(self._names) < _MAX_NAMES:
            self._names[name] = quoted
        return quoted

    def _mapped(self, observation: Any, signals: Any, data: Any, metadata: Any) -> Tuple[Any, Any, Any]:
        """What the first mapper that takes it says of an observation."""
        told: Any = None
        for mapper in self._own:
            told = mapper.to_message(observation)
            if told is not None:
                break
        else:
            told = mapping.MAPPERS.to_message(observation)
        if told is None:
            return signals, data, metadata
        if isinstance(told, (str, bytes)):
            text = told
            try:
                told = json.loads(text)
            except ValueError:
                told = {"message": text if isinstance(text, str) else text.decode("utf-8", "replace")}
        if isinstance(told, dict) and "data" in told and ("source" in told or "signals" in told):
            return told.get("signals", signals), told["data"], told.get("metadata", metadata)
        return signals, told, metadata


def listed(returned: Any) -> List[Any]:
    """What an extractor returned, as a list. Raises :class:`BadObservation`."""
    if returned is None:
        return []
    if isinstance(returned, list):
        return returned
    if hasattr(returned, "signals"):
        return [returned]
    if isinstance(returned, (str, bytes, dict)) or not hasattr(returned, "__iter__"):
        raise BadObservation(
            f"expected an Observation, a list of them or None, got {type(returned).__qualname__}"
        )
    return list(returned)


def _number(what: str, value: Any) -> float:
    """Any number as a finite float: numpy's, an array of one element, a bool."""
    if isinstance(value, (str, bytes)) or value is None:
        raise BadObservation(f"{what} is {value!r}: expected a number")
    try:
        number = float(value.item() if isinstance(value, np.ndarray) else value)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadObservation(f"{what} is no number: {error}") from None
    if not math.isfinite(number):
        raise BadObservation(f"{what} is {number}: numbers must be finite")
    return number


def _time(observation: Any) -> str:
    t_ns = getattr(observation, "t_ns", None)
    if t_ns is None:
        return "null"
    try:
        t_ns = operator.index(t_ns)
    except TypeError:
        raise BadObservation(f"t_ns is {t_ns!r}: expected nanoseconds as an integer") from None
    if not -(2**63) <= t_ns < 2**63:
        raise BadObservation(f"t_ns {t_ns} does not fit into 64 bits")
    return str(t_ns)


def _data(data: Any) -> str:
    """An object; anything else as its only value, under ``data``."""
    if data is None:
        return "{}"
    text = plain.text_of(data, "data")
    return text if text.startswith("{") else f'{{"data":{text}}}'


def _metadata(metadata: Any) -> str:
    if not metadata:
        return "{}"
    text = plain.text_of(metadata, "metadata")
    if not text.startswith("{"):
        raise BadObservation(f"metadata is a {type(metadata).__qualname__}, not a dict")
    return text


# -- what it depends on ------------------------------------------------------------------------------


class Readings:
    """Makes observations of messages again, for extractors that depend on others and for fusions."""

    def __init__(self, own_mappers: Optional[List[Any]] = None):
        self._own = own_mappers or []

    def observation(self, told: protocol.Observation, t_ns: int) -> Any:
        """As the plugin knows observations; ``t_ns`` is the frame's time."""
        data: Any = told.data
        if list(data) == ["data"] and not isinstance(data["data"], dict):
            data = data["data"]
        fields = {
            "source": told.extractor,
            "frame_id": told.frame_id,
            "t_ns": t_ns if told.t_ns is None else told.t_ns,
            "signals": told.signals,
            "data": data,
            "metadata": told.metadata,
        }
        timing = told.metadata.get("timing")
        if isinstance(timing, dict):
            fields["timing"] = timing
        if self._own or mapping.MAPPERS:
            observation = self._mapped(fields)
            if observation is not None:
                return observation
        observation = mapping.observation_class()(**fields)
        if told.confidence is not None:
            # An older class has no such field; the value is there all the same.
            observation.confidence = told.confidence
        return observation

    def _mapped(self, fields: Dict[str, Any]) -> Any:
        data = fields["data"]
        text_alone = isinstance(data, dict) and list(data) == ["message"]
        message = data["message"] if text_alone else json.dumps(fields, ensure_ascii=False)
        for mapper in self._own:
            read = getattr(mapper, "from_message", None)
            observation = read(message) if read is not None else None
            if observation is not None:
                return observation
        return mapping.MAPPERS.from_message(message)
