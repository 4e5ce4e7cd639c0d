"""What extractors give, fusions take and fusions give."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, Generic, List, Optional, TypeVar

T = TypeVar("T")


@dataclass
class Observation(Generic[T]):
    """What one extractor says about one frame.

    All but ``signals`` and ``data`` may be left out: the host fills in the extractor's name in the
    config and the frame's number and time.
    """

    source: str = ""
    frame_id: Optional[int] = None
    #: Source time, nanoseconds.
    t_ns: Optional[int] = None
    #: Finite numbers, for rules. numpy's are fine.
    signals: Dict[str, float] = field(default_factory=dict)
    #: Anything that JSON can say. ``data["objects"]`` is the platform's: a list of
    #: ``{label, score, bbox: [l, t, r, b] in 0–1 of the frame, track_id?, area?, keypoints?}``.
    data: Optional[T] = None
    metadata: Dict[str, Any] = field(default_factory=dict)
    #: Milliseconds per component, if the extractor measures them.
    timing: Optional[Dict[str, float]] = None
    #: 0–1.
    confidence: Optional[float] = None
    #: Another name of ``source``.
    extractor: str = ""

    def __post_init__(self) -> None:
        self.source = self.source or self.extractor
        self.extractor = self.extractor or self.source


@dataclass
class FusionResult:
    """A fusion's answer to one frame: ``FusionResult(triggers=[…])`` or
    ``FusionResult(should_trigger=True, trigger=…)``."""

    should_trigger: Optional[bool] = None
    trigger: Any = None
    #: 0–1.
    score: float = 0.0
    reason: str = ""
    observations_used: int = 0
    metadata: Dict[str, Any] = field(default_factory=dict)
    triggers: List[Any] = field(default_factory=list)
    #: Labels that went ON or OFF.
    states: Dict[str, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.trigger is not None and not self.triggers and self.should_trigger is not False:
            self.triggers = [self.trigger]
        if self.should_trigger is None:
            self.should_trigger = bool(self.triggers)
        if self.trigger is None and self.triggers:
            self.trigger = self.triggers[0]
