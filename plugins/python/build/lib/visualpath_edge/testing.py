"""Tests of a plugin without the appliance: the same calls and the same answers, in this process.

Importing this makes ``visualpath`` and ``visualbase`` importable as in a worker.
"""

from __future__ import annotations

import json
from typing import Any, Dict, Iterable, List, Optional

import numpy as np

from . import answers, loading, protocol, shapes, shims
from .frame import Frame
from .fusing import Fusing

shims.install()


def observe(
    extractor: Any,
    images: Iterable[np.ndarray],
    config: Optional[Dict[str, Any]] = None,
    deps: Optional[List[Any]] = None,
    name: str = "extractor",
) -> List[List[Dict[str, Any]]]:
    """Shows a class (or an instance) one image after the other, 40 ms apart. Gives, for each, the
    observations as the appliance would get them. What the plugin raises comes through."""
    plugin = loading.make(extractor, config or {}) if isinstance(extractor, type) else extractor
    shape = shapes.of_extractor(plugin)
    own = getattr(plugin, "observation_mapper", None)
    own = own if isinstance(own, (list, tuple)) or own is None else [own]
    writes = answers.Answers(name, list(own or []))
    if isinstance(extractor, type) and callable(getattr(plugin, "initialize", None)):
        plugin.initialize()
    seen = []
    for index, image in enumerate(images):
        picture = np.ascontiguousarray(image).copy()
        picture.flags.writeable = False
        frame = Frame.from_array(picture, index, index * 40_000_000)
        given = shapes.Deps((o.source, o) for o in deps or []) if shape.wants_deps else None
        items = answers.listed(shape.run(frame, given))
        told = json.loads(writes.observations(1, index, items, 0, 0))
        seen.append(told["items"])
    return seen


def fuse(
    fusion: Any,
    frames: Iterable[Dict[str, List[Any]]],
    config: Optional[Dict[str, Any]] = None,
    name: str = "fusion",
) -> List[Dict[str, Any]]:
    """Feeds a class (or an instance) observations by extractor, one frame (40 ms) after the other.
    Gives, for each, the result as the appliance would get it."""
    plugin = loading.make(fusion, config or {}) if isinstance(fusion, type) else fusion
    shape = shapes.of_fusion(plugin)
    writes = Fusing(name)
    results = []
    for index, observations in enumerate(frames):
        now = shapes.Aligned(observations, index, index * 40_000_000)
        writes.saw(now.frame_id, now.t_ns)
        answer = writes.answer(shape.run(now), now)
        results.append(json.loads(protocol.encode(answer, 1)))
    return results
