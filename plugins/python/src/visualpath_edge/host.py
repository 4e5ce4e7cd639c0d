"""Runs one plugin: a request in, the bytes of its answer out.

The host is not trusted with anything that the plugin can break: whatever a plugin raises becomes an
``error`` of that request, and the next one is served.
"""

from __future__ import annotations

import gc
import os
import time
import traceback
import weakref
from typing import Any, Callable, List, Optional, Tuple

import numpy as np

from . import answers, loading, pixels, plain, protocol, shapes
from .context import Context, PluginError, enter
from .forms import MAX_TEXT_BYTES
from .frame import Frame
from .fusing import Fusing
from .pools import Pools
from .reports import Reports, fitting


class Ends(Exception):
    """The plugin asked to end the process (``sys.exit``, KeyboardInterrupt); ``answer`` is to be
    sent first."""

    def __init__(self, answer: bytes, status: int):
        super().__init__()
        self.answer = answer
        self.status = status


class Host:
    """One extractor or fusion. ``kind`` says which."""

    def __init__(self, plugin: Any, name: str, reports: Reports):
        self._plugin = plugin
        self._name = name
        self._reports = reports

    def ready(self) -> protocol.Ready:
        """What the plugin declares, with this config."""
        raise NotImplementedError

    def reset(self) -> None:
        _call(self._plugin, "reset")

    def cleanup(self) -> None:
        _call(self._plugin, "cleanup")

    def settle(self) -> None:
        """Called when a request is over and nothing of it is referred to any more."""


class ExtractorHost(Host):
    """Answers ``extract``."""

    def __init__(self, plugin: Any, name: str, reports: Reports, pools: Pools):
        super().__init__(plugin, name, reports)
        own = _own_mappers(plugin)
        self._pools = pools
        self._shape = shapes.of_extractor(plugin)
        self._answers = answers.Answers(name, own)
        self._readings = answers.Readings(own)
        self._copies = False
        self._shown: Optional[Tuple["weakref.ref[np.ndarray]", int]] = None

    def ready(self) -> protocol.Ready:
        return protocol.Ready(
            signals=_signals(self._plugin), input=_input(self._plugin), models=_models(self._plugin)
        )

    def extract(self, id: int, request: protocol.Extract, beside: List[Any], began_ns: int) -> bytes:
        """The bytes of ``observations``."""
        where = request.frame.pixels or "slot"
        if len(beside) != (0 if where == "slot" else 1):
            raise protocol.ProtocolError(
                "body", f"extract: {len(beside)} parts beside the message; pixels are in {where}", id
            )
        if where == "slot":
            return self._of_slot(id, request, began_ns)
        decode = pixels.raw if where == "raw" else pixels.jpeg
        return self._look(id, decode(request.frame, beside[0]), request, began_ns)

    def _of_slot(self, id: int, request: protocol.Extract, began_ns: int) -> bytes:
        picture = self._pools.picture(request.frame)
        if self._copies:
            picture = picture.copy()
            picture.flags.writeable = False
            return self._look(id, picture, request, began_ns)
        # A slice of the picture refers to it, so while it lives somebody has kept (a part of) it.
        self._shown = (weakref.ref(picture), request.frame.frame_id)
        return self._look(id, picture, request, began_ns)

    def settle(self) -> None:
        """Notices a picture that is still alive when its request is over."""
        if self._shown is None:
            return
        picture, frame_id = self._shown
        self._shown = None
        if picture() is None:
            return
        # It may only hang in a circle of garbage.
        gc.collect()
        if picture() is None:
            return
        self._copies = True
        self._reports.log(
            "warn",
            f"{self._name} keeps frames (frame {frame_id} or a slice of it) after they were "
            "answered, when their memory is filled anew: it gets a copy of each frame from now on. "
            "Keep frame.copy() instead.",
        )

    def _look(self, id: int, picture: np.ndarray, request: protocol.Extract, began_ns: int) -> bytes:
        at = request.frame
        frame = Frame(
            picture, at.frame_id, at.t_ns, at.width, at.height, at.format, at.frame_width,
            at.frame_height, tuple(at.roi), at.epoch or 0, at.color,
        )  # fmt: skip
        deps = None
        if self._shape.wants_deps:
            read = self._readings.observation
            deps = shapes.Deps((o.extractor, read(o, at.t_ns)) for o in request.deps)
        from_ns = time.monotonic_ns()
        returned = self._shape.run(frame, deps)
        items = answers.listed(returned)
        to_ns = time.monotonic_ns()
        return self._answers.observations(id, at.frame_id, items, to_ns - from_ns, to_ns - began_ns)


class FusionHost(Host):
    """Answers ``fuse``, ``gap`` and ``end``."""

    def __init__(self, plugin: Any, name: str, reports: Reports):
        super().__init__(plugin, name, reports)
        self._shape = shapes.of_fusion(plugin)
        self._fusing = Fusing(name)
        self._readings = answers.Readings(_own_mappers(plugin))

    def ready(self) -> protocol.Ready:
        return protocol.Ready(models=_models(self._plugin))

    def fuse(self, id: int, request: protocol.Fuse) -> bytes:
        self._fusing.saw(request.frame_id, request.t_ns)
        read = self._readings.observation
        seen = {
            extractor: [read(o, request.t_ns) for o in of_one]
            for extractor, of_one in request.observations.items()
        }
        now = shapes.Aligned(
            seen, request.frame_id, request.t_ns, request.unix_ns, request.source, request.missing
        )
        return encoded(self._fusing.answer(self._shape.run(now), now), id)

    def gap(self, id: int, request: protocol.Gap) -> bytes:
        """For a fusion that has a method ``gap(from_ns, to_ns)``."""
        return self._told(id, "gap", request.from_ns, request.to_ns)

    def end(self, id: int, request: protocol.End) -> bytes:
        """For a fusion that has a method ``end(t_ns)``."""
        return self._told(id, "end", request.t_ns)

    def _told(self, id: int, name: str, *times: int) -> bytes:
        return encoded(self._fusing.answer([_call(self._plugin, name, *times)], {}), id)

    def reset(self) -> None:
        self._fusing.reset()
        super().reset()


def start(
    kind: str, plugin: loading.Plugin, hello: protocol.ParentHello, name: str, pools: Pools,
    reports: Reports, on_progress: Callable[[float, str], None],
) -> Host:  # fmt: skip
    """Loads the class, makes the plugin of it and lets it initialize. Whatever goes wrong comes
    through."""
    from pathlib import Path

    enter(
        Context(
            name=name,
            zones=list(hello.zones),
            masks=list(hello.masks or []),
            model_dirs=[Path(d) for d in hello.model_dirs or []],
            extractors=list(hello.extractors or []),
        ),
        on_progress,
    )
    made = loading.make(plugin.load(), hello.config)
    host: Host
    if kind == "fusion":
        host = FusionHost(made, name, reports)
    else:
        host = ExtractorHost(made, name, reports, pools)
    _call(made, "initialize")
    return host


def encoded(message: Any, id: int) -> bytes:
    """The bytes of what a plugin gave. A bound that it breaks is the plugin's fault."""
    try:
        return protocol.encode(message, id)
    except protocol.ProtocolError as error:
        raise plain.BadAnswer(str(error)) from None


# -- what a plugin declares --------------------------------------------------------------------------


def _call(plugin: Any, name: str, *args: Any) -> Any:
    """An optional method."""
    method = getattr(plugin, name, None)
    return method(*args) if callable(method) else None


def _own_mappers(plugin: Any) -> List[Any]:
    given = getattr(plugin, "observation_mapper", None)
    if given is None:
        return []
    return list(given) if isinstance(given, (list, tuple)) else [given]


def _declared(plugin: Any, name: str) -> Tuple[Any, bool]:
    """An attribute, and whether its class has it. What an instance alone has may be the plugin's
    own business, under a name that happens to be ours."""
    value = getattr(plugin, name, None)
    return (None if callable(value) else value), hasattr(type(plugin), name)


def _signals(plugin: Any) -> Optional[List[str]]:
    declared, by_class = _declared(plugin, "signals")
    names = isinstance(declared, (list, tuple, set, frozenset, dict))
    if names and all(isinstance(name, str) for name in declared):
        return list(declared)
    if declared is None or not by_class:
        return None
    raise TypeError(f"signals of {type(plugin).__qualname__} must be a list of names")


_INPUT_KEYS = ("format", "width", "height", "fit", "filter")
_FORMATS = ("native", "rgb", "bgr", "grey")


def _input(plugin: Any) -> protocol.Input:
    """BGR of full size unless it says otherwise: a dict or a format's name."""
    declared, by_class = _declared(plugin, "input")
    if isinstance(declared, protocol.Input):
        return declared
    if isinstance(declared, str) and (by_class or declared in _FORMATS):
        return protocol.Input(format=declared)
    if isinstance(declared, dict) and (by_class or set(declared) <= set(_INPUT_KEYS)):
        unknown = sorted(set(declared) - set(_INPUT_KEYS))
        if unknown:
            raise TypeError(f"input: unknown key {unknown[0]!r}; known: {', '.join(_INPUT_KEYS)}")
        return protocol.Input(**{"format": "bgr", **declared})
    if declared is None or not by_class:
        return protocol.Input(format="bgr")
    raise TypeError(f"input of {type(plugin).__qualname__} must be a dict or a format's name")


def _models(plugin: Any) -> Optional[List[protocol.Model]]:
    declared = getattr(plugin, "models", None)
    if declared is None or callable(declared) or not isinstance(declared, (list, tuple)):
        return None
    fields = ("name", "version", "sha256", "runtime")
    models = []
    for model in declared:
        # Anything else under this name is the plugin's own business.
        if isinstance(model, dict) and "name" in model:
            models.append(protocol.Model(*(str(model.get(f, "")) for f in fields)))
    return models or None


# -- errors ------------------------------------------------------------------------------------------


def error_of(error: BaseException) -> protocol.ErrorReport:
    """An exception as the parent is told of it: without the host's own lines at the top."""
    if isinstance(error, protocol.ProtocolError):
        return error.answer()
    named = type(error).__qualname__
    text = " ".join(str(error).split()) or "(no message)"
    kind = error.kind if isinstance(error, PluginError) else "plugin"
    bad_answer = isinstance(error, plain.BadAnswer)
    from_plugin = _from_plugin(error.__traceback__)
    lines: List[str] = []
    if from_plugin is not None or not bad_answer:
        at = from_plugin or error.__traceback__
        lines = traceback.format_exception(type(error), error, at)
    return protocol.ErrorReport(
        error=fitting(text if bad_answer else f"{named}: {text}", 4096),
        traceback=fitting("".join(lines), MAX_TEXT_BYTES) if lines else None,
        kind=kind,
    )


_HERE = os.path.dirname(__file__) + os.sep


def _from_plugin(frames: Any) -> Any:
    """The traceback from the first line on that is not the host's; none if it never got there."""
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_HERE):
        frames = frames.tb_next
    return frames


def ends_of(id: int, error: BaseException) -> Ends:
    """What is no error but a wish to end: answered, then met."""
    status = 1
    if isinstance(error, SystemExit):
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
    return Ends(protocol.encode(error_of(error), id), status)
