from visualpath_edge.observing import (
    FPSRecord,
    FrameDropRecord,
    FrameExtractRecord,
    SessionEndRecord,
    SessionStartRecord,
    SyncDelayRecord,
    TimingRecord,
    TraceRecord,
)

__all__ = [
    "FPSRecord",
    "FrameDropRecord",
    "FrameExtractRecord",
    "SessionEndRecord",
    "SessionStartRecord",
    "SyncDelayRecord",
    "TimingRecord",
    "TraceRecord",
]
