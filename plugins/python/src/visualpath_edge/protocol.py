"""Protocol 1 with the codec ``json/1``: every message as a dataclass.

``PROTOCOL.md`` beside the crate ``visualpath-protocol`` describes the fields. A field that defaults
to ``None`` may be absent; unknown fields are passed over; anything else that is not as described
raises :class:`ProtocolError`, which names what came. Nothing here needs a third-party package.
"""

from __future__ import annotations

import json
import operator
import re
import typing
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple, Type

from .forms import (
    BOOL,
    FLOAT,
    FORMAT,
    I64,
    JSON,
    MAX_CORNERS,
    MAX_EXTRACTORS,
    MAX_JSON_DEPTH,
    MAX_JSON_PARTS,
    MAX_KEYPOINTS,
    MAX_MESSAGE_BYTES,
    MAX_MODELS,
    MAX_OBJECTS,
    MAX_OBSERVATIONS,
    MAX_OFFERS,
    MAX_POOLS,
    MAX_SIGNALS,
    MAX_TRIGGERS,
    MAX_ZONES,
    NAME,
    SIGNALS,
    TEXT,
    U32,
    U64,
    Bad,
    Body,
    ListOf,
    MapOf,
    Phase,
    Word,
    at,
    is_,
    may,
    short,
)

PROTOCOL = 1
CODEC = "json/1"


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
        return ErrorReport(error=short(str(self)), kind="protocol")


# -- what messages hold ------------------------------------------------------------------------------


@dataclass
class Input:
    """The view an extractor wants."""

    format: str = is_(Word("native", "rgb", "bgr", "grey"))
    width: Optional[int] = may(U32)
    height: Optional[int] = may(U32)
    fit: Optional[str] = may(Word("stretch", "letterbox"))
    filter: Optional[str] = may(Word("bilinear", "area"))


@dataclass
class Model:
    """A model as it is really run."""

    name: str = is_(NAME)
    version: str = is_(NAME)
    sha256: str = is_(NAME)
    runtime: str = is_(NAME)


@dataclass
class Timing:
    """How long an answer took in the child, nanoseconds."""

    extract_ns: int = is_(I64)
    total_ns: int = is_(I64)


@dataclass
class Observation:
    """What one extractor says about one frame."""

    extractor: str = is_(NAME)
    frame_id: int = is_(U64)
    signals: Dict[str, float] = is_(SIGNALS)
    data: Dict[str, Any] = is_(JSON)
    metadata: Dict[str, Any] = is_(JSON)
    t_ns: Optional[int] = may(I64)
    confidence: Optional[float] = may(FLOAT)
    timing_ns: Optional[int] = may(I64)


@dataclass
class Object:
    """One thing found in a frame, in a trigger."""

    label: str = is_(NAME)
    score: float = is_(FLOAT)
    bbox: List[float] = is_(ListOf(FLOAT, 4, 4))
    area: float = is_(FLOAT)
    zones: List[str] = is_(ListOf(NAME, MAX_ZONES))
    keypoints: List[List[float]] = is_(ListOf(ListOf(FLOAT, 3, 3), MAX_KEYPOINTS))
    track_id: Optional[int] = may(U64)


@dataclass
class Trigger:
    """What a fusion emits; times are source times in nanoseconds."""

    label: str = is_(NAME)
    kind: str = is_(Word("point", "range"))
    phase: Any = is_(Phase())
    event: int = is_(U64)
    frame_id: int = is_(U64)
    t_ns: int = is_(I64)
    fired_ns: int = is_(I64)
    event_start_ns: int = is_(I64)
    event_end_ns: int = is_(I64)
    t_start_ns: int = is_(I64)
    t_end_ns: int = is_(I64)
    score: float = is_(FLOAT)
    reason: str = is_(TEXT)
    observations_used: int = is_(U32)
    signals: Dict[str, float] = is_(SIGNALS)
    objects: List[Object] = is_(ListOf(Body(Object), MAX_OBJECTS))
    clip: bool = is_(BOOL)
    metadata: Dict[str, Any] = is_(JSON)


@dataclass
class State:
    """A label that went ON or OFF."""

    label: str = is_(NAME)
    on: bool = is_(BOOL)


@dataclass
class Zone:
    """A named polygon of a source's picture."""

    name: str = is_(NAME)
    polygon: List[List[float]] = is_(ListOf(ListOf(FLOAT, 2, 2), MAX_CORNERS))
    anchor: str = is_(Word("bottom", "center"))


@dataclass
class Mask:
    """A part of a source's picture that does not count."""

    name: str = is_(NAME)
    kind: str = is_(Word("motion", "objects", "privacy"))
    polygon: List[List[float]] = is_(ListOf(ListOf(FLOAT, 2, 2), MAX_CORNERS))


@dataclass
class Color:
    """Meaning of YUV samples."""

    matrix: str = is_(Word("bt601", "bt709"))
    range: str = is_(Word("limited", "full"))


@dataclass
class Layout:
    """Size, format and row length of a picture."""

    format: str = is_(FORMAT)
    width: int = is_(U32)
    height: int = is_(U32)
    stride: int = is_(U32)
    color: Optional[Color] = may(Body(Color))


@dataclass
class FrameRef:
    """One view of one frame, and where its pixels are."""

    pool_id: int = is_(U32)
    slot: int = is_(U32)
    generation: int = is_(U64)
    frame_id: int = is_(U64)
    t_ns: int = is_(I64)
    width: int = is_(U32)
    height: int = is_(U32)
    format: str = is_(FORMAT)
    stride: int = is_(U32)
    offset: int = is_(U64)
    frame_width: int = is_(U32)
    frame_height: int = is_(U32)
    roi: List[float] = is_(ListOf(FLOAT, 4, 4))
    view: Optional[int] = may(U32)
    frame_format: Optional[str] = may(FORMAT)
    color: Optional[Color] = may(Body(Color))
    epoch: Optional[int] = may(U32)
    pixels: Optional[str] = may(Word("slot", "raw", "jpeg"))


# -- child → parent ----------------------------------------------------------------------------------


@dataclass
class ChildHello:
    token: str = is_(NAME)
    name: str = is_(NAME)
    version: str = is_(NAME)
    protocols: List[int] = is_(ListOf(U32, MAX_OFFERS))
    codecs: List[str] = is_(ListOf(NAME, MAX_OFFERS))
    signals: List[str] = is_(ListOf(NAME, MAX_SIGNALS))
    input: Optional[Input] = may(Body(Input))


@dataclass
class Progress:
    percent: float = is_(FLOAT)
    text: str = is_(TEXT)


@dataclass
class Ready:
    signals: Optional[List[str]] = may(ListOf(NAME, MAX_SIGNALS))
    input: Optional[Input] = may(Body(Input))
    models: Optional[List[Model]] = may(ListOf(Body(Model), MAX_MODELS))


@dataclass
class Pong:
    extractor: str = is_(NAME)


@dataclass
class Observations:
    items: List[Observation] = is_(ListOf(Body(Observation), MAX_OBSERVATIONS))
    timing: Timing = is_(Body(Timing))


@dataclass
class ErrorReport:
    error: str = is_(TEXT)
    traceback: Optional[str] = may(TEXT)
    kind: Optional[str] = may(Word("plugin", "config", "model", "runtime", "protocol"))


@dataclass
class FusionAnswer:
    triggers: List[Trigger] = is_(ListOf(Body(Trigger), MAX_TRIGGERS))
    score: float = is_(FLOAT)
    reason: str = is_(TEXT)
    observations_used: int = is_(U32)
    metadata: Dict[str, Any] = is_(JSON)
    states: Optional[List[State]] = may(ListOf(Body(State), MAX_TRIGGERS))


@dataclass
class Ok:
    pass


@dataclass
class TraceRecord:
    record: Dict[str, Any] = is_(JSON)


@dataclass
class Log:
    level: str = is_(Word("trace", "debug", "info", "warn", "error"))
    msg: str = is_(TEXT)


# -- parent → child ----------------------------------------------------------------------------------


@dataclass
class Pool:
    pool_id: int = is_(U32)
    slots: int = is_(U32)
    slot_bytes: int = is_(U64)
    layout: Layout = is_(Body(Layout))


@dataclass
class ExtractorSignals:
    """One extractor of a path, as its fusion may refer to it."""

    name: str = is_(NAME)
    signals: List[str] = is_(ListOf(NAME, MAX_SIGNALS))
    zones: List[str] = is_(ListOf(NAME, MAX_ZONES))


@dataclass
class ParentHello:
    codec: str = is_(NAME)
    config: Dict[str, Any] = is_(JSON)
    zones: List[Zone] = is_(ListOf(Body(Zone), MAX_ZONES))
    pools: List[Pool] = is_(ListOf(Body(Pool), MAX_POOLS))
    name: Optional[str] = may(NAME)
    model_dirs: Optional[List[str]] = may(ListOf(TEXT, MAX_MODELS))
    extractors: Optional[List[ExtractorSignals]] = may(ListOf(Body(ExtractorSignals), MAX_EXTRACTORS))
    masks: Optional[List[Mask]] = may(ListOf(Body(Mask), MAX_ZONES))


@dataclass
class Ping:
    pass


@dataclass
class Extract:
    frame: FrameRef = is_(Body(FrameRef))
    deps: List[Observation] = is_(ListOf(Body(Observation), MAX_OBSERVATIONS))
    deadline_ms: Optional[int] = may(U32)


@dataclass
class Fuse:
    frame_id: int = is_(U64)
    t_ns: int = is_(I64)
    observations: Dict[str, List[Observation]] = is_(
        MapOf(ListOf(Body(Observation), MAX_OBSERVATIONS), MAX_EXTRACTORS)
    )
    missing: List[str] = is_(ListOf(NAME, MAX_EXTRACTORS))
    source: Optional[str] = may(NAME)
    unix_ns: Optional[int] = may(I64)


@dataclass
class Gap:
    from_ns: int = is_(I64)
    to_ns: int = is_(I64)


@dataclass
class End:
    t_ns: int = is_(I64)


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


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


# Made once: json.loads and json.dumps with options make a new one each time.
_DECODER = json.JSONDecoder(parse_constant=_no_constant)
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def encode(message: Any, id: int) -> bytes:
    """The bytes of one message. Raises :class:`ProtocolError` if it breaks a bound."""
    cls = type(message)
    if cls not in _NAMES:
        raise ProtocolError("type", f"{cls.__name__} is no message")
    name = _NAMES[cls]
    try:
        body = Body(cls).write(message)
    except Bad as bad:
        raise ProtocolError("body", f"{name}: {bad}", id) from None
    out = {"v": PROTOCOL, "id": U64.read(id), "type": name}
    out.update(body)
    try:
        data = _ENCODER.encode(out).encode()
    except ValueError as error:
        raise ProtocolError("body", f"{name}: {short(str(error))}", id) from None
    check_bytes(data)
    return data


def decode_from_parent(data: bytes) -> Envelope:
    """Reads one message of a parent."""
    return _decode(data, FROM_PARENT)


def decode_from_child(data: bytes) -> Envelope:
    """Reads one message of a child."""
    return _decode(data, FROM_CHILD)


def _decode(data: bytes, table: Dict[str, Type[Any]]) -> Envelope:
    if len(data) > _SHORT:
        check_bytes(data)
    try:
        text = data.decode()
        value, end = _DECODER.raw_decode(text)
        if end == len(text) and table is FROM_PARENT and type(value) is dict:
            quick = _quick_extract(value)
            if quick is not None:
                return quick
        check_bytes(data)
        value = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("envelope", f"no message: {short(str(error))}") from None
    if not isinstance(value, dict):
        raise ProtocolError("envelope", "no message: expected a JSON object")
    try:
        version = at("v", U64.read, value.get("v"))
        id = at("id", U64.read, value.get("id", 0))
        name = value.get("type")
        if not isinstance(name, str):
            raise Bad("type: expected a string")
    except Bad as bad:
        raise ProtocolError("envelope", f"no message: {bad}") from None
    if version != PROTOCOL:
        raise ProtocolError("version", f"protocol {version}; this side speaks {PROTOCOL}", id)
    cls = table.get(name)
    if cls is None:
        raise ProtocolError("type", f"unknown message type {json.dumps(short(name))}", id)
    try:
        return Envelope(id, Body(cls).read(value))
    except Bad as bad:
        raise ProtocolError("body", f"{name}: {short(str(bad))}", id) from None


def check_bytes(data: bytes) -> None:
    """Size and shape of a message, before anything is built. Raises :class:`ProtocolError`."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise ProtocolError(
            "too_long", f"a message of {len(data)} bytes; at most {MAX_MESSAGE_BYTES} are taken"
        )
    # Those inside strings are counted too, so only a suspect is looked at closely.
    brackets = data.count(b"{") + data.count(b"[")
    if brackets <= MAX_JSON_DEPTH and data.count(b",") + brackets <= MAX_JSON_PARTS:
        return
    parts, depth = shape(data)
    if parts > MAX_JSON_PARTS or depth > MAX_JSON_DEPTH:
        raise ProtocolError(
            "complex",
            f"a message of {parts} parts, {depth} deep; at most {MAX_JSON_PARTS}, "
            f"{MAX_JSON_DEPTH} deep are taken",
        )


#: Bytes of a message that can't ask for much, whatever is in it.
_SHORT = 4096
_FRAME_INTS = operator.itemgetter(
    "pool_id", "slot", "width", "height", "stride", "frame_width", "frame_height",
    "generation", "frame_id", "offset", "t_ns",
)  # fmt: skip
_ELEVEN_INTS, _FOUR_FLOATS = (int,) * 11, (float,) * 4
_COLORS = {
    (matrix, range): Color(matrix, range) for matrix in ("bt601", "bt709") for range in ("limited", "full")
}
_PIXELS = frozenset([None, "slot", "raw", "jpeg"])
_FORMATS = frozenset(FORMAT.words)


def _quick_extract(value: Dict[str, Any]) -> Optional[Envelope]:
    """The one message that comes for every frame, read without the forms: a third of their time,
    and half of what a worker needs that was asleep. Anything unusual (and any mistake, so that
    there is one place to name it) is left to them."""
    frame = value.get("frame")
    id = value.get("id")
    if (
        value.get("type") != "extract" or value.get("v") != PROTOCOL or value["v"] is True
        or type(id) is not int or id >> 64 or value.get("deps") != [] or type(frame) is not dict
    ):  # fmt: skip
        return None
    try:
        ints = _FRAME_INTS(frame)
        roi, format = frame["roi"], frame["format"]
    except KeyError:
        return None
    if tuple(map(type, ints)) != _ELEVEN_INTS or type(roi) is not list:
        return None
    pool_id, slot, width, height, stride, full_width, full_height, generation, frame_id, offset, t_ns = ints
    # A negative number makes the whole negative, one too large leaves something over.
    if (pool_id | slot | width | height | stride | full_width | full_height) >> 32:
        return None
    if (generation | frame_id | offset) >> 64 or not -(2**63) <= t_ns < 2**63:
        return None
    if tuple(map(type, roi)) != _FOUR_FLOATS or any(x - x for x in roi):
        return None
    view, epoch, deadline = frame.get("view"), frame.get("epoch"), value.get("deadline_ms")
    for number in (view, epoch, deadline):
        if number is not None and (type(number) is not int or number >> 32):
            return None
    pixels, frame_format, color = frame.get("pixels"), frame.get("frame_format"), frame.get("color")
    try:
        known = format in _FORMATS and pixels in _PIXELS
        known = known and (frame_format is None or frame_format in _FORMATS)
        color = color if color is None else _COLORS[color["matrix"], color["range"]]
    except (KeyError, TypeError):
        return None
    if not known:
        return None
    return Envelope(
        id,
        Extract(
            FrameRef(
                pool_id, slot, generation, frame_id, t_ns, width, height, format, stride, offset,
                full_width, full_height, roi, view, frame_format, color, epoch, pixels,
            ),
            [],
            deadline,
        ),
    )  # fmt: skip


_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_PAIR = re.compile(rb"\[\]|\{\}")
_NO_BRACKET = bytes(set(range(256)) - set(b"[]{}"))


def shape(data: bytes) -> Tuple[int, int]:
    """Opening brackets and commas outside strings, and brackets open at once.

    Right for JSON; for what is none at least as much as there is. Every step is one pass in C:
    a large answer would otherwise cost more here than everywhere else.
    """
    outside = _STRING.sub(b"", data)
    brackets = outside.translate(None, _NO_BRACKET)
    parts = outside.count(b"{") + outside.count(b"[") + outside.count(b",")
    depth = 0
    # Takes away the innermost pairs: as often as it is deep.
    while brackets and depth <= MAX_JSON_DEPTH:
        fewer = _PAIR.sub(b"", brackets)
        if fewer == brackets:
            return parts, depth + fewer.count(b"{") + fewer.count(b"[")
        brackets = fewer
        depth += 1
    return parts, depth
