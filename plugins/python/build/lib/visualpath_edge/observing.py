"""The hub that plugins emit trace records to. In a worker every record goes to the parent's hub."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Any, Callable, Deque, Dict, List, Optional

from . import plain

#: Set by the worker: where every record goes besides the sinks.
forward: Optional[Callable[[Dict[str, Any]], None]] = None


class TraceLevel(IntEnum):
    """How much is recorded; each level has the ones before it."""

    OFF = 0
    MINIMAL = 1
    NORMAL = 2
    VERBOSE = 3


@dataclass
class TraceRecord:
    """A record; its type is the class's ``record_type``. Any dict with that key serves as well."""

    record_type: str = field(default="base", init=False)
    timestamp_ns: int = field(default_factory=time.monotonic_ns)
    min_level: TraceLevel = field(default=TraceLevel.NORMAL, repr=False)

    def to_dict(self) -> Dict[str, Any]:
        return as_record(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False)


@dataclass
class TimingRecord(TraceRecord):
    record_type: str = field(default="timing", init=False)
    frame_id: int = 0
    component: str = ""
    processing_ms: float = 0.0
    queue_depth: int = 0
    threshold_ms: float = 50.0
    is_slow: bool = False


@dataclass
class FrameDropRecord(TraceRecord):
    record_type: str = field(default="frame_drop", init=False)
    dropped_frame_ids: List[int] = field(default_factory=list)
    reason: str = ""
    queue_depth: int = 0
    processing_ms: float = 0.0


@dataclass
class SyncDelayRecord(TraceRecord):
    record_type: str = field(default="sync_delay", init=False)
    frame_id: int = 0
    expected_ns: int = 0
    actual_ns: int = 0
    delay_ms: float = 0.0
    waiting_for: List[str] = field(default_factory=list)


@dataclass
class FPSRecord(TraceRecord):
    record_type: str = field(default="fps_summary", init=False)
    start_frame: int = 0
    end_frame: int = 0
    frame_count: int = 0
    actual_fps: float = 0.0
    target_fps: float = 0.0
    fps_ratio: float = 0.0
    avg_latency_ms: float = 0.0
    max_latency_ms: float = 0.0
    p95_latency_ms: float = 0.0
    component_avg_ms: Dict[str, float] = field(default_factory=dict)
    dropped_frames: int = 0
    slow_frames: int = 0


@dataclass
class SessionStartRecord(TraceRecord):
    record_type: str = field(default="session_start", init=False)
    min_level: TraceLevel = field(default=TraceLevel.MINIMAL, repr=False)
    session_id: str = ""
    source_path: str = ""
    target_fps: float = 0.0
    extractors: List[str] = field(default_factory=list)
    config: Dict[str, Any] = field(default_factory=dict)
    trace_level: str = ""


@dataclass
class SessionEndRecord(TraceRecord):
    record_type: str = field(default="session_end", init=False)
    min_level: TraceLevel = field(default=TraceLevel.MINIMAL, repr=False)
    session_id: str = ""
    duration_sec: float = 0.0
    total_frames: int = 0
    total_triggers: int = 0
    total_events: int = 0
    total_dropped: int = 0
    avg_fps: float = 0.0


@dataclass
class FrameExtractRecord(TraceRecord):
    record_type: str = field(default="frame_extract", init=False)
    frame_id: int = 0
    t_ns: int = 0
    source: str = ""
    object_count: int = 0
    signals: Dict[str, float] = field(default_factory=dict)
    processing_ms: float = 0.0


class Sink:
    """Where records go."""

    def write(self, record: Any) -> None:
        raise NotImplementedError

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is open."""


class NullSink(Sink):
    def write(self, record: Any) -> None:
        pass


class MemorySink(Sink):
    """The newest records, for tests."""

    def __init__(self, max_records: int = 10_000):
        self._records: Deque[Any] = deque(maxlen=max_records)

    def write(self, record: Any) -> None:
        self._records.append(record)

    def get_records(self, record_type: Optional[str] = None) -> List[Any]:
        return [r for r in self._records if record_type in (None, _field(r, "record_type"))]

    def clear(self) -> None:
        self._records.clear()

    def __len__(self) -> int:
        return len(self._records)


class ObservabilityHub:
    """Takes records from any thread. Outside of a worker it is off until configured."""

    _instance: Optional["ObservabilityHub"] = None
    _instance_lock = threading.Lock()

    def __init__(self, level: TraceLevel = TraceLevel.OFF):
        self._level = TraceLevel(level)
        self._sinks: List[Any] = []
        self._lock = threading.Lock()

    @classmethod
    def get_instance(cls) -> "ObservabilityHub":
        """The hub of this process; in a worker it is on from the start."""
        with cls._instance_lock:
            if cls._instance is None:
                cls._instance = cls(TraceLevel.NORMAL if forward is not None else TraceLevel.OFF)
            return cls._instance

    @classmethod
    def reset_instance(cls) -> None:
        with cls._instance_lock:
            cls._instance = None

    def configure(
        self, level: TraceLevel = TraceLevel.OFF, sinks: Optional[List[Any]] = None
    ) -> None:
        self._level = TraceLevel(level)
        for sink in sinks or []:
            self.add_sink(sink)

    def add_sink(self, sink: Any) -> None:
        with self._lock:
            self._sinks.append(sink)

    def remove_sink(self, sink: Any) -> None:
        with self._lock:
            if sink in self._sinks:
                self._sinks.remove(sink)

    @property
    def enabled(self) -> bool:
        """Whether making a record is worth it."""
        return self._level > TraceLevel.OFF

    @property
    def level(self) -> TraceLevel:
        return self._level

    def is_level_enabled(self, level: TraceLevel) -> bool:
        return self._level >= level

    def emit(self, record: Any) -> None:
        """Hands a record to the parent and to every sink. A record that is not JSON raises here,
        where the mistake is."""
        least = _field(record, "min_level")
        if not self.enabled or (least is not None and least > self._level):
            return
        if forward is not None:
            forward(as_record(record))
        with self._lock:
            for sink in self._sinks:
                sink.write(record)

    def flush(self) -> None:
        with self._lock:
            for sink in self._sinks:
                sink.flush()

    def shutdown(self) -> None:
        self.flush()
        with self._lock:
            for sink in self._sinks:
                sink.close()
            self._sinks.clear()
        self._level = TraceLevel.OFF


def as_record(record: Any) -> Dict[str, Any]:
    """A dict, a dataclass or any object with attributes as ``record_type``, ``timestamp_ns``, then
    its fields, of plain types."""
    if isinstance(record, dict):
        given = dict(record)
    elif dataclasses.is_dataclass(record) and not isinstance(record, type):
        given = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
    else:
        given = dict(vars(record))
    kind, at = given.pop("record_type", None), given.pop("timestamp_ns", None)
    given.pop("min_level", None)
    given = {k: v.name if isinstance(v, Enum) else v for k, v in given.items()}
    told = {
        "record_type": str(kind or type(record).__name__),
        "timestamp_ns": time.monotonic_ns() if at is None else int(at),
        **given,
    }
    return json.loads(plain.text_of(told, "record"))


def _field(record: Any, name: str) -> Any:
    return record.get(name) if isinstance(record, dict) else getattr(record, name, None)
