"""Triggers as Python fusions make them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Dict, Optional


class TriggerType(Enum):
    """An instant or a stretch of time."""

    POINT = "POINT"
    RANGE = "RANGE"


@dataclass(frozen=True)
class Trigger:
    """Asks for a clip. Times are source times in nanoseconds, as in observations."""

    type: TriggerType
    event_time_ns: Optional[int] = None
    start_time_ns: Optional[int] = None
    end_time_ns: Optional[int] = None
    #: Seconds of clip before the event.
    pre_sec: float = 3.0
    #: Seconds of clip after the event.
    post_sec: float = 2.0
    label: str = ""
    #: 0–1.
    score: float = 0.0
    metadata: Dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.type is TriggerType.POINT:
            if self.event_time_ns is None:
                raise ValueError("a POINT needs event_time_ns")
        elif self.start_time_ns is None or self.end_time_ns is None:
            raise ValueError("a RANGE needs start_time_ns and end_time_ns")
        elif self.start_time_ns > self.end_time_ns:
            raise ValueError(f"a RANGE from {self.start_time_ns} to {self.end_time_ns}")

    @classmethod
    def point(
        cls,
        event_time_ns: int,
        pre_sec: float = 3.0,
        post_sec: float = 2.0,
        label: str = "",
        score: float = 0.0,
        metadata: Optional[Dict[str, Any]] = None,
    ) -> "Trigger":
        return cls(
            TriggerType.POINT, event_time_ns=event_time_ns, pre_sec=pre_sec, post_sec=post_sec,
            label=label, score=score, metadata=metadata or {},
        )  # fmt: skip

    @classmethod
    def range(
        cls,
        start_time_ns: int,
        end_time_ns: int,
        pre_sec: float = 3.0,
        post_sec: float = 2.0,
        label: str = "",
        score: float = 0.0,
        metadata: Optional[Dict[str, Any]] = None,
    ) -> "Trigger":
        return cls(
            TriggerType.RANGE, start_time_ns=start_time_ns, end_time_ns=end_time_ns,
            pre_sec=pre_sec, post_sec=post_sec, label=label, score=score, metadata=metadata or {},
        )  # fmt: skip

    @property
    def clip_start_ns(self) -> int:
        first = self.event_time_ns if self.type is TriggerType.POINT else self.start_time_ns
        return max(0, int(first or 0) - round(self.pre_sec * 1e9))

    @property
    def clip_end_ns(self) -> int:
        last = self.event_time_ns if self.type is TriggerType.POINT else self.end_time_ns
        return int(last or 0) + round(self.post_sec * 1e9)

    @property
    def clip_start_sec(self) -> float:
        return self.clip_start_ns / 1e9

    @property
    def clip_end_sec(self) -> float:
        return self.clip_end_ns / 1e9

    @property
    def clip_duration_sec(self) -> float:
        return self.clip_end_sec - self.clip_start_sec
