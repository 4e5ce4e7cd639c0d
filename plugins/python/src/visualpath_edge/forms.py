"""What a field of a message may hold: the bounds of protocol 1 and the check of every kind of value.

A form checks one value and gives it back: as a dataclass when reading, as plain JSON when writing.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import field
from typing import Any, Callable, Dict, List, Tuple

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


class Bad(Exception):
    """A value of another form than the field's; the path is put before it on the way out."""


class Form:
    def read(self, value: Any) -> Any:
        raise NotImplementedError

    def write(self, value: Any) -> Any:
        return self.read(value)


class Int(Form):
    def __init__(self, least: int, most: int):
        self.least, self.most = least, most

    def read(self, value: Any) -> int:
        if type(value) is not int:
            raise Bad(f"expected an integer, got {short(repr(value))}")
        if not self.least <= value <= self.most:
            raise Bad(f"{short(str(value))} is not in {self.least}..{self.most}")
        return value


class Float(Form):
    def read(self, value: Any) -> float:
        if type(value) is not float and type(value) is not int:
            raise Bad(f"expected a number, got {short(repr(value))}")
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
        if not math.isfinite(value):
            raise Bad("not a finite number")
        return value


class Bool(Form):
    def read(self, value: Any) -> bool:
        if type(value) is not bool:
            raise Bad(f"expected true or false, got {short(repr(value))}")
        return value


class Str(Form):
    def __init__(self, most: int):
        self.most = most

    def read(self, value: Any) -> str:
        if not isinstance(value, str):
            raise Bad(f"expected a string, got {short(repr(value))}")
        try:
            length = len(value.encode())
        except UnicodeEncodeError:
            raise Bad("a lone surrogate, which no UTF-8 can say") from None
        if length > self.most:
            raise Bad(f"{length} bytes; at most {self.most} are allowed")
        return value


class Word(Form):
    def __init__(self, *words: str):
        self.words = words

    def read(self, value: Any) -> str:
        if not isinstance(value, str) or value not in self.words:
            raise Bad(f"expected one of {', '.join(self.words)}, got {short(repr(value))}")
        return value


class Phase(Form):
    """``"point"``, ``"start"`` or ``{"end": {"reason": …}}``."""

    reasons = Word("released", "max_s", "interrupted")

    def read(self, value: Any) -> Any:
        if value in ("point", "start"):
            return value
        if isinstance(value, dict) and list(value) == ["end"] and isinstance(value["end"], dict):
            self.reasons.read(value["end"].get("reason"))
            return {"end": {"reason": value["end"]["reason"]}}
        raise Bad(f"expected point, start or an end with its reason, got {short(repr(value))}")


class ListOf(Form):
    def __init__(self, inner: Form, most: int, least: int = 0):
        self.inner, self.most, self.least = inner, most, least

    def _each(self, value: Any, each: Callable[[Any], Any]) -> list:
        if not isinstance(value, (list, tuple)):
            raise Bad(f"expected a list, got {short(repr(value))}")
        if not self.least <= len(value) <= self.most:
            raise Bad(f"{len(value)} elements; {self.least} to {self.most} are allowed")
        out = []
        for index, element in enumerate(value):
            try:
                out.append(each(element))
            except Bad as bad:
                raise Bad(f"[{index}]: {bad}") from None
        return out

    def read(self, value: Any) -> list:
        return self._each(value, self.inner.read)

    def write(self, value: Any) -> list:
        return self._each(value, self.inner.write)


class MapOf(Form):
    """Names to values of one form, in the order they came."""

    def __init__(self, inner: Form, most: int):
        self.inner, self.most = inner, most

    def _each(self, value: Any, each: Callable[[Any], Any]) -> dict:
        if not isinstance(value, dict):
            raise Bad(f"expected an object, got {short(repr(value))}")
        if len(value) > self.most:
            raise Bad(f"{len(value)} entries; at most {self.most} are allowed")
        out = {}
        for key, element in value.items():
            NAME.read(key)
            try:
                out[key] = each(element)
            except Bad as bad:
                raise Bad(f"{short(key)}: {bad}") from None
        return out

    def read(self, value: Any) -> dict:
        return self._each(value, self.inner.read)

    def write(self, value: Any) -> dict:
        return self._each(value, self.inner.write)


class Json(Form):
    """A free-form JSON object."""

    def read(self, value: Any) -> dict:
        if not isinstance(value, dict):
            raise Bad(f"expected an object, got {short(repr(value))}")
        check_json(value, 1)
        return value


class Body(Form):
    def __init__(self, cls: type):
        self.cls = cls

    def read(self, value: Any) -> Any:
        if not isinstance(value, dict):
            raise Bad(f"expected an object, got {short(repr(value))}")
        given = {}
        for name, form, optional in fields_of(self.cls):
            if name in value and not (optional and value[name] is None):
                given[name] = at(name, form.read, value[name])
            elif not optional:
                raise Bad(f"{name} is missing")
            else:
                given[name] = None
        return self.cls(**given)

    def write(self, value: Any) -> dict:
        if not isinstance(value, self.cls):
            raise Bad(f"expected {self.cls.__name__}, got {short(repr(value))}")
        out = {}
        for name, form, optional in fields_of(self.cls):
            element = getattr(value, name)
            out[name] = None if optional and element is None else at(name, form.write, element)
        return out


def at(name: str, do: Callable[[Any], Any], value: Any) -> Any:
    try:
        return do(value)
    except Bad as bad:
        raise Bad(f"{name}: {bad}") from None


_FIELDS: Dict[type, List[Tuple[str, Form, bool]]] = {}


def fields_of(cls: type) -> List[Tuple[str, Form, bool]]:
    known = _FIELDS.get(cls)
    if known is None:
        known = [(f.name, f.metadata["form"], f.metadata["optional"]) for f in dataclasses.fields(cls)]
        _FIELDS[cls] = known
    return known


def is_(form: Form) -> Any:
    """A field that must be there."""
    return field(metadata={"form": form, "optional": False})


def may(form: Form) -> Any:
    """A field that may be absent."""
    return field(default=None, metadata={"form": form, "optional": True})


def check_json(value: Any, depth: int) -> None:
    """Finite numbers and plain types only, no deeper than allowed."""
    if isinstance(value, (dict, list, tuple)):
        if depth > MAX_OBJECT_DEPTH:
            raise Bad(f"nested deeper than {MAX_OBJECT_DEPTH}")
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str):
                    raise Bad(f"a key that is no string: {short(repr(key))}")
            value = value.values()
        for element in value:
            check_json(element, depth + 1)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise Bad("a number that is not finite")
    elif isinstance(value, bool) or value is None or isinstance(value, str):
        pass
    elif isinstance(value, int):
        try:
            float(value)
        except OverflowError:
            raise Bad("a number that no float holds") from None
    else:
        raise Bad(f"{type(value).__name__} is not JSON")


U32 = Int(0, 2**32 - 1)
U64 = Int(0, 2**64 - 1)
I64 = Int(-(2**63), 2**63 - 1)
FLOAT = Float()
BOOL = Bool()
NAME = Str(MAX_NAME_BYTES)
TEXT = Str(MAX_TEXT_BYTES)
JSON = Json()
SIGNALS = MapOf(FLOAT, MAX_SIGNALS)
FORMAT = Word("i420", "nv12", "yuyv", "rgb", "bgr", "grey", "uyvy", "nv21")


def short(words: str) -> str:
    """Somebody else's words, short enough to be said again."""
    return words if len(words) <= 200 else words[:200] + "…"
