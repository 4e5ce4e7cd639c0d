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
from typing import Any

import numpy as np

from .forms import MAX_OBJECT_DEPTH, Bad, check_json, short


class BadAnswer(ValueError):
    """What a plugin gave can't be sent; the text says which part of it and why."""


class NotJson(BadAnswer):
    """A value that JSON can't say."""


def text_of(value: Any, at: str) -> str:
    """``value``, called ``at``, as JSON. Raises :class:`NotJson`."""
    try:
        text = _ENCODER.encode(value)
    except (TypeError, ValueError, RecursionError):
        # Again with every key and element made plain: numpy's integers as keys are fine.
        tree = _tree(value, at, 1)
        text = _ENCODER.encode(tree)
    brackets = text.count("{") + text.count("[")
    if brackets >= MAX_OBJECT_DEPTH or _SUSPECT.search(text):
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
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=plain
)
#: An integer that may not fit into 64 bits, or a surrogate, which no UTF-8 can say.
_SUSPECT = re.compile("[0-9]{19}|[\ud800-\udfff]")


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
        text.encode()
        check_json(json.loads(text), 1)
    except UnicodeEncodeError:
        raise NotJson(f"{at}: a lone surrogate, which no UTF-8 can say") from None
    except Bad as bad:
        raise NotJson(f"{at}: {bad}") from None
