"""What the parent hears beside answers: log lines and trace records, no more than it can use."""

from __future__ import annotations

import logging
import time
from typing import Any, Callable, Dict

from . import protocol
from .forms import MAX_TEXT_BYTES

#: Log lines at once, and per second in the long run.
LOG_BURST, LOG_RATE = 100, 20.0
#: The same of trace records.
TRACE_BURST, TRACE_RATE = 500, 200.0


class Cap:
    """A token bucket; counts what did not get through."""

    def __init__(self, burst: int, rate: float, clock: Callable[[], float] = time.monotonic):
        self._burst, self._rate, self._clock = burst, rate, clock
        self._left, self._at = float(burst), clock()
        self.dropped = 0

    def allows(self) -> bool:
        now = self._clock()
        self._left = min(self._left + (now - self._at) * self._rate, self._burst)
        self._at = now
        if self._left < 1:
            self.dropped += 1
            return False
        self._left -= 1
        return True


class Reports:
    """Sends them through ``offer``, which must not block and may be called by any thread."""

    def __init__(self, offer: Callable[[bytes], None]):
        self._offer = offer
        self._logs = Cap(LOG_BURST, LOG_RATE)
        self._traces = Cap(TRACE_BURST, TRACE_RATE)

    def log(self, level: str, msg: str) -> None:
        """One line; ``level`` is a word of protocol 1."""
        if not self._logs.allows():
            return
        dropped, self._logs.dropped = self._logs.dropped, 0
        if dropped:
            msg = f"{msg} ({dropped} lines before it were dropped)"
        try:
            data = protocol.encode(protocol.Log(level=level, msg=fitting(msg)), 0)
        except protocol.ProtocolError:
            return
        self._offer(data)

    def trace(self, record: Dict[str, Any]) -> None:
        """One record: plain JSON with ``record_type`` and ``timestamp_ns``."""
        if not self._traces.allows():
            return
        dropped, self._traces.dropped = self._traces.dropped, 0
        if dropped:
            self.log("warn", f"{dropped} trace records were dropped: at most "
                     f"{TRACE_RATE:.0f} per second are sent")  # fmt: skip
        try:
            data = protocol.encode(protocol.TraceRecord(record=record), 0)
        except protocol.ProtocolError as error:
            self.log("warn", f"a trace record was dropped: {error}")
            return
        self._offer(data)


class Handler(logging.Handler):
    """Python's logging, to the parent's log."""

    def __init__(self, reports: Reports):
        super().__init__()
        self._reports = reports
        self.setFormatter(logging.Formatter("%(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._reports.log(_level(record.levelno), self.format(record))
        except Exception:
            self.handleError(record)


def _level(number: int) -> str:
    if number >= logging.ERROR:
        return "error"
    if number >= logging.WARNING:
        return "warn"
    if number >= logging.INFO:
        return "info"
    return "debug" if number >= logging.DEBUG else "trace"


def install(reports: Reports) -> None:
    """Everything from INFO that any logger says, and Python's warnings."""
    root = logging.getLogger()
    root.addHandler(Handler(reports))
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)


def fitting(text: str, most: int = MAX_TEXT_BYTES) -> str:
    """``text`` as UTF-8 of at most ``most`` bytes; of a longer one the beginning and the end."""
    data = text.encode("utf-8", "replace")
    if len(data) > most:
        cut = b"\n \xe2\x80\xa6 \n"
        head = most // 4
        data = data[:head] + cut + data[len(data) - (most - head - len(cut)) :]
    # A character cut in two is left out; replacing it could make the text longer than it may be.
    return data.decode("utf-8", "ignore")
