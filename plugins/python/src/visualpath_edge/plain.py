"""JSON text of what plugins give: numbers of numpy, arrays, dataclasses and the like among it.

The usual case is one pass of the encoder written in C, which asks :func:`plain` about each value
it does not know. What stands in its way is looked for only afterwards, to name it.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import numbers
import os
import re
from typing import Any, Callable

import numpy as np

from .forms import MAX_OBJECT_DEPTH, Bad, check_json, short


class BadAnswer(ValueError):
    """What a plugin gave can't be sent; the text says which part of it and why."""


class NotJson(BadAnswer):
    """A value that JSON can't say."""


def text_of(value: Any, at: str) -> str:
    """``value``, called ``at``, as JSON. Raises :class:`NotJson`."""
    try:
        text = _encode(value)
    except (TypeError, ValueError, RecursionError):
        # Again with every key and element made plain: numpy's integers as keys are fine.
        tree = _tree(value, at, 1)
        text = _encode(tree)
    # A short text can neither be deep nor hold a number of 309 digits.
    if len(text) > 2 * MAX_OBJECT_DEPTH:
        brackets = text.count("{") + text.count("[")
        if brackets > MAX_OBJECT_DEPTH or _TOO_LARGE.search(text):
            _check(text, at)
    return text


def plain(value: Any) -> Any:
    """What the encoder does not know, as something that it does. Raises TypeError."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, (np.bool_, np.integer, np.floating)):
        return _number(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=repr)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    # Arrays and numbers of other libraries (torch, jax): nothing of theirs is imported for it.
    as_list = getattr(value, "tolist", None)
    if callable(as_list):
        given = as_list()
        if isinstance(given, (bool, int, float, list)):
            return given
    raise TypeError(f"{type(value).__qualname__} is not JSON")


_ENCODER = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":"), default=plain
)
#: An integer that no float may hold.
_TOO_LARGE = re.compile("[0-9]{309}")


def _made_once() -> Callable[[Any], str]:
    """``_ENCODER.encode``, which makes its inner encoder anew for every call, with one that is kept.
    That is no public interface: what does not behave is not used."""
    encoder = json.encoder
    try:
        inner = encoder.c_make_encoder(
            None, plain, encoder.encode_basestring, None, ":", ",", False, False, False
        )

        def quick(value: Any) -> str:
            return "".join(inner(value, 0))

        sample = {"a": [1.5, None, True, {"é\n": np.float32(2)}, 10**20], "": "x"}
        assert quick(sample) == _ENCODER.encode(sample) and quick("x") == '"x"'
    except Exception:
        return _ENCODER.encode
    return quick


_encode = _made_once()


def _number(value: Any) -> Any:
    if isinstance(value, np.bool_):
        return bool(value)
    return int(value) if isinstance(value, np.integer) else float(value)


def _tree(value: Any, at: str, depth: int) -> Any:
    """``value`` made of plain types all through. Raises :class:`NotJson`, which names the place."""
    if isinstance(value, (np.bool_, np.integer, np.floating)):
        value = _number(value)
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise NotJson(f"{at} is {value}: numbers must be finite")
        return float(value)
    if isinstance(value, int):
        try:
            float(value)
        except OverflowError:
            raise NotJson(f"{at}: a number that no float holds") from None
        return int(value)
    if depth > MAX_OBJECT_DEPTH:
        raise NotJson(f"{at} is nested deeper than {MAX_OBJECT_DEPTH}")
    if isinstance(value, dict):
        return {_key(k, at): _tree(v, f"{at}.{short(str(k))}", depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_tree(v, f"{at}[{i}]", depth + 1) for i, v in enumerate(value)]
    try:
        return _tree(plain(value), at, depth + 1)
    except TypeError as error:
        raise NotJson(f"{at}: {error}") from None


def _key(key: Any, at: str) -> str:
    if isinstance(key, enum.Enum):
        key = key.value
    if isinstance(key, str):
        return key
    if isinstance(key, (bool, np.bool_)):
        return "true" if key else "false"
    if isinstance(key, (int, np.integer)):
        return str(int(key))
    raise NotJson(f"{at}: a key that is no string: {short(repr(key))}")


def _check(text: str, at: str) -> None:
    try:
        check_json(json.loads(text), 1)
    except Bad as bad:
        raise NotJson(f"{at}: {bad}") from None
    except ValueError:
        # More digits than Python itself reads.
        raise NotJson(f"{at}: a number that no float holds") from None
