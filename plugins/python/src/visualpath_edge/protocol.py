"""Protocol 1 with the codec ``json/1``: every message as a dataclass.

``PROTOCOL.md`` beside the crate ``visualpath-protocol`` describes the fields. A field that defaults
to ``None`` may be absent; unknown fields are passed over; anything else that is not as described
raises :class:`ProtocolError`, which names what came. Nothing here needs a third-party package.
"""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Optional, Tuple, Type

PROTOCOL = 1
CODEC = "json/1"

# As in visualpath-protocol's `bounds`.
MAX_MESSAGE_BYTES = 4 << 20
MAX_JSON_PARTS = 65_536
MAX_JSON_DEPTH = 64
MAX_OBJECT_DEPTH = 56
MAX_NAME_BYTES = 256
MAX_TEXT_BYTES = 65_536
MAX_OBSERVATIONS = 256
MAX_SIGNALS = 256
MAX_OBJECTS = 1024
MAX_KEYPOINTS = 1024
MAX_ZONES = 64
MAX_CORNERS = 256
MAX_EXTRACTORS = 64
MAX_TRIGGERS = 64
MAX_POOLS = 16
MAX_OFFERS = 16
MAX_MODELS = 64


class ProtocolError(Exception):
    """Bytes that are no message, or a message that must not be sent.

    ``kind`` is ``too_long``, ``complex``, ``envelope``, ``version``, ``type`` or ``body``; ``id`` is
    the request it answers, as far as it could be read.
    """

    def __init__(self, kind: str, text: str, id: Optional[int] = None):
        super().__init__(text)
        self.kind = kind
        self.id = id

    def answer(self) -> "ErrorReport":
        """The ``error`` to answer the sender with, under ``id`` or 0."""
        return ErrorReport(error=_short(str(self)), kind="protocol")


class _Bad(Exception):
    """A value of another form than the field's; the path is put before it on the way out."""


# -- forms -------------------------------------------------------------------------------------------
#
# A form checks one value and gives it back: as a dataclass when reading, as plain JSON when writing.


class _Form:
    def read(self, value: Any) -> Any:
        raise NotImplementedError

    def write(self, value: Any) -> Any:
        return self.read(value)


class _Int(_Form):
    def __init__(self, least: int, most: int):
        self.least, self.most = least, most

    def read(self, value: Any) -> int:
        if type(value) is not int:
            raise _Bad(f"expected an integer, got {_short(repr(value))}")
        if not self.least <= value <= self.most:
            raise _Bad(f"{_short(str(value))} is not in {self.least}..{self.most}")
        return value


class _Float(_Form):
    def read(self, value: Any) -> float:
        if type(value) is not float and type(value) is not int:
            raise _Bad(f"expected a number, got {_short(repr(value))}")
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
        if not math.isfinite(value):
            raise _Bad("not a finite number")
        return value


class _Bool(_Form):
    def read(self, value: Any) -> bool:
        if type(value) is not bool:
            raise _Bad(f"expected true or false, got {_short(repr(value))}")
        return value


class _Str(_Form):
    def __init__(self, most: int):
        self.most = most

    def read(self, value: Any) -> str:
        if not isinstance(value, str):
            raise _Bad(f"expected a string, got {_short(repr(value))}")
        try:
            length = len(value.encode())
        except UnicodeEncodeError:
            raise _Bad("a lone surrogate, which no UTF-8 can say") from None
        if length > self.most:
            raise _Bad(f"{length} bytes; at most {self.most} are allowed")
        return value


class _Word(_Form):
    def __init__(self, *words: str):
        self.words = words

    def read(self, value: Any) -> str:
        if not isinstance(value, str) or value not in self.words:
            raise _Bad(f"expected one of {', '.join(self.words)}, got {_short(repr(value))}")
        return value


class _Phase(_Form):
    """``"point"``, ``"start"`` or ``{"end": {"reason": …}}``."""

    reasons = _Word("released", "max_s", "interrupted")

    def read(self, value: Any) -> Any:
        if value in ("point", "start"):
            return value
        if isinstance(value, dict) and list(value) == ["end"] and isinstance(value["end"], dict):
            self.reasons.read(value["end"].get("reason"))
            return {"end": {"reason": value["end"]["reason"]}}
        raise _Bad(f"expected point, start or an end with its reason, got {_short(repr(value))}")


class _List(_Form):
    def __init__(self, inner: _Form, most: int, least: int = 0):
        self.inner, self.most, self.least = inner, most, least

    def _each(self, value: Any, each: Callable[[Any], Any]) -> list:
        if not isinstance(value, (list, tuple)):
            raise _Bad(f"expected a list, got {_short(repr(value))}")
        if not self.least <= len(value) <= self.most:
            raise _Bad(f"{len(value)} elements; {self.least} to {self.most} are allowed")
        out = []
        for index, element in enumerate(value):
            try:
                out.append(each(element))
            except _Bad as bad:
                raise _Bad(f"[{index}]: {bad}") from None
        return out

    def read(self, value: Any) -> list:
        return self._each(value, self.inner.read)

    def write(self, value: Any) -> list:
        return self._each(value, self.inner.write)


class _Map(_Form):
    """Names to values of one form, in the order they came."""

    def __init__(self, inner: _Form, most: int):
        self.inner, self.most = inner, most

    def _each(self, value: Any, each: Callable[[Any], Any]) -> dict:
        if not isinstance(value, dict):
            raise _Bad(f"expected an object, got {_short(repr(value))}")
        if len(value) > self.most:
            raise _Bad(f"{len(value)} entries; at most {self.most} are allowed")
        out = {}
        for key, element in value.items():
            _NAME.read(key)
            try:
                out[key] = each(element)
            except _Bad as bad:
                raise _Bad(f"{_short(key)}: {bad}") from None
        return out

    def read(self, value: Any) -> dict:
        return self._each(value, self.inner.read)

    def write(self, value: Any) -> dict:
        return self._each(value, self.inner.write)


class _Json(_Form):
    """A free-form JSON object."""

    def read(self, value: Any) -> dict:
        if not isinstance(value, dict):
            raise _Bad(f"expected an object, got {_short(repr(value))}")
        _check_json(value, 1)
        return value


class _Body(_Form):
    def __init__(self, cls: type):
        self.cls = cls

    def read(self, value: Any) -> Any:
        if not isinstance(value, dict):
            raise _Bad(f"expected an object, got {_short(repr(value))}")
        given = {}
        for name, form, optional in _fields(self.cls):
            if name in value and not (optional and value[name] is None):
                given[name] = _at(name, form.read, value[name])
            elif not optional:
                raise _Bad(f"{name} is missing")
            else:
                given[name] = None
        return self.cls(**given)

    def write(self, value: Any) -> dict:
        if not isinstance(value, self.cls):
            raise _Bad(f"expected {self.cls.__name__}, got {_short(repr(value))}")
        out = {}
        for name, form, optional in _fields(self.cls):
            element = getattr(value, name)
            out[name] = None if optional and element is None else _at(name, form.write, element)
        return out


def _at(name: str, do: Callable[[Any], Any], value: Any) -> Any:
    try:
        return do(value)
    except _Bad as bad:
        raise _Bad(f"{name}: {bad}") from None


_FIELDS: Dict[type, List[Tuple[str, _Form, bool]]] = {}


def _fields(cls: type) -> List[Tuple[str, _Form, bool]]:
    known = _FIELDS.get(cls)
    if known is None:
        known = [
            (f.name, f.metadata["form"], f.metadata["optional"]) for f in dataclasses.fields(cls)
        ]
        _FIELDS[cls] = known
    return known


def _is(form: _Form) -> Any:
    """A field that must be there."""
    return field(metadata={"form": form, "optional": False})


def _may(form: _Form) -> Any:
    """A field that may be absent."""
    return field(default=None, metadata={"form": form, "optional": True})


def _check_json(value: Any, depth: int) -> None:
    """Finite numbers and plain types only, no deeper than allowed."""
    if isinstance(value, (dict, list, tuple)):
        if depth > MAX_OBJECT_DEPTH:
            raise _Bad(f"nested deeper than {MAX_OBJECT_DEPTH}")
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str):
                    raise _Bad(f"a key that is no string: {_short(repr(key))}")
            value = value.values()
        for element in value:
            _check_json(element, depth + 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise _Bad("a number that is not finite")
    elif isinstance(value, bool) or value is None or isinstance(value, str):
        pass
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise _Bad(f"{_short(str(value))} does not fit into 64 bits")
    else:
        raise _Bad(f"{type(value).__name__} is not JSON")


_U32 = _Int(0, 2**32 - 1)
_U64 = _Int(0, 2**64 - 1)
_I64 = _Int(-(2**63), 2**63 - 1)
_FLOAT = _Float()
_BOOL = _Bool()
_NAME = _Str(MAX_NAME_BYTES)
_TEXT = _Str(MAX_TEXT_BYTES)
_JSON = _Json()
_SIGNALS = _Map(_FLOAT, MAX_SIGNALS)
_FORMAT = _Word("i420", "nv12", "yuyv", "rgb", "bgr", "grey")


# -- what messages hold ------------------------------------------------------------------------------


@dataclass
class Input:
    """The view an extractor wants."""

    format: str = _is(_Word("native", "rgb", "bgr", "grey"))
    width: Optional[int] = _may(_U32)
    height: Optional[int] = _may(_U32)
    fit: Optional[str] = _may(_Word("stretch", "letterbox"))
    filter: Optional[str] = _may(_Word("bilinear", "area"))


@dataclass
class Model:
    """A model as it is really run."""

    name: str = _is(_NAME)
    version: str = _is(_NAME)
    sha256: str = _is(_NAME)
    runtime: str = _is(_NAME)


@dataclass
class Timing:
    """How long an answer took in the child, nanoseconds."""

    extract_ns: int = _is(_I64)
    total_ns: int = _is(_I64)


@dataclass
class Observation:
    """What one extractor says about one frame."""

    extractor: str = _is(_NAME)
    frame_id: int = _is(_U64)
    signals: Dict[str, float] = _is(_SIGNALS)
    data: Dict[str, Any] = _is(_JSON)
    metadata: Dict[str, Any] = _is(_JSON)
    t_ns: Optional[int] = _may(_I64)
    confidence: Optional[float] = _may(_FLOAT)
    timing_ns: Optional[int] = _may(_I64)


@dataclass
class Object:
    """One thing found in a frame, in a trigger."""

    label: str = _is(_NAME)
    score: float = _is(_FLOAT)
    bbox: List[float] = _is(_List(_FLOAT, 4, 4))
    area: float = _is(_FLOAT)
    zones: List[str] = _is(_List(_NAME, MAX_ZONES))
    keypoints: List[List[float]] = _is(_List(_List(_FLOAT, 3, 3), MAX_KEYPOINTS))
    track_id: Optional[int] = _may(_U64)


@dataclass
class Trigger:
    """What a fusion emits; times are source times in nanoseconds."""

    label: str = _is(_NAME)
    kind: str = _is(_Word("point", "range"))
    phase: Any = _is(_Phase())
    event: int = _is(_U64)
    frame_id: int = _is(_U64)
    t_ns: int = _is(_I64)
    fired_ns: int = _is(_I64)
    event_start_ns: int = _is(_I64)
    event_end_ns: int = _is(_I64)
    t_start_ns: int = _is(_I64)
    t_end_ns: int = _is(_I64)
    score: float = _is(_FLOAT)
    reason: str = _is(_TEXT)
    observations_used: int = _is(_U32)
    signals: Dict[str, float] = _is(_SIGNALS)
    objects: List[Object] = _is(_List(_Body(Object), MAX_OBJECTS))
    clip: bool = _is(_BOOL)
    metadata: Dict[str, Any] = _is(_JSON)


@dataclass
class State:
    """A label that went ON or OFF."""

    label: str = _is(_NAME)
    on: bool = _is(_BOOL)


@dataclass
class Zone:
    """A named polygon of a source's picture."""

    name: str = _is(_NAME)
    polygon: List[List[float]] = _is(_List(_List(_FLOAT, 2, 2), MAX_CORNERS))
    anchor: str = _is(_Word("bottom", "center"))


@dataclass
class Color:
    """Meaning of YUV samples."""

    matrix: str = _is(_Word("bt601", "bt709"))
    range: str = _is(_Word("limited", "full"))


@dataclass
class Layout:
    """Size, format and row length of a picture."""

    format: str = _is(_FORMAT)
    width: int = _is(_U32)
    height: int = _is(_U32)
    stride: int = _is(_U32)
    color: Optional[Color] = _may(_Body(Color))


@dataclass
class FrameRef:
    """One view of one frame, and where its pixels are."""

    pool_id: int = _is(_U32)
    slot: int = _is(_U32)
    generation: int = _is(_U64)
    frame_id: int = _is(_U64)
    t_ns: int = _is(_I64)
    width: int = _is(_U32)
    height: int = _is(_U32)
    format: str = _is(_FORMAT)
    stride: int = _is(_U32)
    offset: int = _is(_U64)
    frame_width: int = _is(_U32)
    frame_height: int = _is(_U32)
    roi: List[float] = _is(_List(_FLOAT, 4, 4))
    view: Optional[int] = _may(_U32)
    frame_format: Optional[str] = _may(_FORMAT)
    color: Optional[Color] = _may(_Body(Color))
    epoch: Optional[int] = _may(_U32)
    pixels: Optional[str] = _may(_Word("slot", "raw", "jpeg"))


# -- child → parent ----------------------------------------------------------------------------------


@dataclass
class ChildHello:
    token: str = _is(_NAME)
    name: str = _is(_NAME)
    version: str = _is(_NAME)
    protocols: List[int] = _is(_List(_U32, MAX_OFFERS))
    codecs: List[str] = _is(_List(_NAME, MAX_OFFERS))
    signals: List[str] = _is(_List(_NAME, MAX_SIGNALS))
    input: Optional[Input] = _may(_Body(Input))


@dataclass
class Progress:
    percent: float = _is(_FLOAT)
    text: str = _is(_TEXT)


@dataclass
class Ready:
    signals: Optional[List[str]] = _may(_List(_NAME, MAX_SIGNALS))
    input: Optional[Input] = _may(_Body(Input))
    models: Optional[List[Model]] = _may(_List(_Body(Model), MAX_MODELS))


@dataclass
class Pong:
    extractor: str = _is(_NAME)


@dataclass
class Observations:
    items: List[Observation] = _is(_List(_Body(Observation), MAX_OBSERVATIONS))
    timing: Timing = _is(_Body(Timing))


@dataclass
class ErrorReport:
    error: str = _is(_TEXT)
    traceback: Optional[str] = _may(_TEXT)
    kind: Optional[str] = _may(_Word("plugin", "config", "model", "runtime", "protocol"))


@dataclass
class FusionAnswer:
    triggers: List[Trigger] = _is(_List(_Body(Trigger), MAX_TRIGGERS))
    score: float = _is(_FLOAT)
    reason: str = _is(_TEXT)
    observations_used: int = _is(_U32)
    metadata: Dict[str, Any] = _is(_JSON)
    states: Optional[List[State]] = _may(_List(_Body(State), MAX_TRIGGERS))


@dataclass
class Ok:
    pass


@dataclass
class TraceRecord:
    record: Dict[str, Any] = _is(_JSON)


@dataclass
class Log:
    level: str = _is(_Word("trace", "debug", "info", "warn", "error"))
    msg: str = _is(_TEXT)


# -- parent → child ----------------------------------------------------------------------------------


@dataclass
class Pool:
    pool_id: int = _is(_U32)
    slots: int = _is(_U32)
    slot_bytes: int = _is(_U64)
    layout: Layout = _is(_Body(Layout))


@dataclass
class ExtractorSignals:
    """One extractor of a path, as its fusion may refer to it."""

    name: str = _is(_NAME)
    signals: List[str] = _is(_List(_NAME, MAX_SIGNALS))
    zones: List[str] = _is(_List(_NAME, MAX_ZONES))


@dataclass
class ParentHello:
    codec: str = _is(_NAME)
    config: Dict[str, Any] = _is(_JSON)
    zones: List[Zone] = _is(_List(_Body(Zone), MAX_ZONES))
    pools: List[Pool] = _is(_List(_Body(Pool), MAX_POOLS))
    name: Optional[str] = _may(_NAME)
    model_dirs: Optional[List[str]] = _may(_List(_TEXT, MAX_MODELS))
    extractors: Optional[List[ExtractorSignals]] = _may(
        _List(_Body(ExtractorSignals), MAX_EXTRACTORS)
    )


@dataclass
class Ping:
    pass


@dataclass
class Extract:
    frame: FrameRef = _is(_Body(FrameRef))
    deps: List[Observation] = _is(_List(_Body(Observation), MAX_OBSERVATIONS))
    deadline_ms: Optional[int] = _may(_U32)


@dataclass
class Fuse:
    frame_id: int = _is(_U64)
    t_ns: int = _is(_I64)
    observations: Dict[str, List[Observation]] = _is(
        _Map(_List(_Body(Observation), MAX_OBSERVATIONS), MAX_EXTRACTORS)
    )
    missing: List[str] = _is(_List(_NAME, MAX_EXTRACTORS))
    source: Optional[str] = _may(_NAME)
    unix_ns: Optional[int] = _may(_I64)


@dataclass
class Gap:
    from_ns: int = _is(_I64)
    to_ns: int = _is(_I64)


@dataclass
class End:
    t_ns: int = _is(_I64)


@dataclass
class Reset:
    pass


@dataclass
class Shutdown:
    pass


FROM_CHILD: Dict[str, Type[Any]] = {
    "hello": ChildHello,
    "progress": Progress,
    "ready": Ready,
    "pong": Pong,
    "observations": Observations,
    "error": ErrorReport,
    "result": FusionAnswer,
    "ok": Ok,
    "trace": TraceRecord,
    "log": Log,
}
FROM_PARENT: Dict[str, Type[Any]] = {
    "hello": ParentHello,
    "ping": Ping,
    "extract": Extract,
    "fuse": Fuse,
    "reset": Reset,
    "pool": Pool,
    "shutdown": Shutdown,
    "error": ErrorReport,
    "gap": Gap,
    "end": End,
}
_NAMES = {cls: name for table in (FROM_CHILD, FROM_PARENT) for name, cls in table.items()}


class Envelope(typing.NamedTuple):
    """A message with the id that joins requests and answers; 0 where nothing is asked."""

    id: int
    message: Any


# -- codec -------------------------------------------------------------------------------------------


def encode(message: Any, id: int) -> bytes:
    """The bytes of one message. Raises :class:`ProtocolError` if it breaks a bound."""
    cls = type(message)
    if cls not in _NAMES:
        raise ProtocolError("type", f"{cls.__name__} is no message")
    name = _NAMES[cls]
    try:
        body = _Body(cls).write(message)
    except _Bad as bad:
        raise ProtocolError("body", f"{name}: {bad}", id) from None
    out = {"v": PROTOCOL, "id": _U64.read(id), "type": name}
    out.update(body)
    try:
        text = json.dumps(out, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except ValueError as error:
        raise ProtocolError("body", f"{name}: {_short(str(error))}", id) from None
    _check_bytes(text)
    return text


def decode_from_parent(data: bytes) -> Envelope:
    """Reads one message of a parent."""
    return _decode(data, FROM_PARENT)


def decode_from_child(data: bytes) -> Envelope:
    """Reads one message of a child."""
    return _decode(data, FROM_CHILD)


def _decode(data: bytes, table: Dict[str, Type[Any]]) -> Envelope:
    _check_bytes(data)
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("envelope", f"no message: {_short(str(error))}") from None
    if not isinstance(value, dict):
        raise ProtocolError("envelope", "no message: expected a JSON object")
    try:
        version = _at("v", _U64.read, value.get("v"))
        id = _at("id", _U64.read, value.get("id", 0))
        name = value.get("type")
        if not isinstance(name, str):
            raise _Bad("type: expected a string")
    except _Bad as bad:
        raise ProtocolError("envelope", f"no message: {bad}") from None
    if version != PROTOCOL:
        raise ProtocolError("version", f"protocol {version}; this side speaks {PROTOCOL}", id)
    cls = table.get(name)
    if cls is None:
        raise ProtocolError("type", f"unknown message type {json.dumps(_short(name))}", id)
    try:
        return Envelope(id, _Body(cls).read(value))
    except _Bad as bad:
        raise ProtocolError("body", f"{name}: {_short(str(bad))}", id) from None


def _check_bytes(data: bytes) -> None:
    """Size and shape, before anything is built."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise ProtocolError(
            "too_long", f"a message of {len(data)} bytes; at most {MAX_MESSAGE_BYTES} are taken"
        )
    # Those inside strings are counted too, so only a suspect is looked at closely.
    brackets = data.count(b"{") + data.count(b"[")
    if brackets <= MAX_JSON_DEPTH and data.count(b",") + brackets <= MAX_JSON_PARTS:
        return
    parts, depth = _shape(data)
    if parts > MAX_JSON_PARTS or depth > MAX_JSON_DEPTH:
        raise ProtocolError(
            "complex",
            f"a message of {parts} parts, {depth} deep; at most {MAX_JSON_PARTS}, "
            f"{MAX_JSON_DEPTH} deep are taken",
        )


def _shape(data: bytes) -> Tuple[int, int]:
    """Opening brackets and commas outside strings, and brackets open at once."""
    parts = depth = most = 0
    inside = escaped = False
    for byte in data:
        if inside:
            if escaped:
                escaped = False
            elif byte == 0x5C:
                escaped = True
            elif byte == 0x22:
                inside = False
        elif byte == 0x22:
            inside = True
        elif byte in b"{[":
            parts += 1
            depth += 1
            most = max(most, depth)
        elif byte in b"}]":
            depth = max(depth - 1, 0)
        elif byte == 0x2C:
            parts += 1
    return parts, most


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def _short(words: str) -> str:
    return words if len(words) <= 200 else words[:200] + "…"
