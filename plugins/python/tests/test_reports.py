"""What reaches the parent beside answers."""

import time

import numpy as np
from parent import HANGS

from visualpath_edge import protocol
from visualpath_edge.reports import LOG_BURST, Cap, Reports, fitting


def show(parent, number, picture):
    return parent.extract(parent.pool1.put(0, picture, frame_id=number))


def test_logging_warnings_and_records_reach_the_parent_and_prints_its_log(child, picture):
    parent = child("Talks")
    assert show(parent, 1, picture).items == []
    logs = [(log.level, log.msg) for log in parent.logs]
    assert logs[:2] == [("info", "my.plugin: hello there"), ("error", "my.plugin: oh ? no")]
    assert logs[2][0] == "warn" and "UserWarning: old" in logs[2][1]
    assert len(logs) == 3
    assert "printed\n" in parent.written()
    timing, own = parent.traces
    assert (timing["record_type"], timing["frame_id"], timing["processing_ms"]) == ("timing", 1, 1.5)
    assert isinstance(timing["timestamp_ns"], int) and "min_level" not in timing
    assert (own["record_type"], own["x"]) == ("own", [0, 1, 2])


def test_a_plugin_that_logs_too_much_is_cut_short_and_the_count_is_told(child, picture):
    parent = child("Talks")
    show(parent, 2, picture)
    assert LOG_BURST <= len(parent.logs) < 2 * LOG_BURST
    time.sleep(0.1)
    show(parent, 1, picture)
    assert any("lines before it were dropped" in log.msg for log in parent.logs)


def test_other_threads_are_heard_too_even_when_nothing_is_asked(child, picture):
    parent = child("Talks")
    show(parent, 3, picture)
    parent.ask(protocol.Ping())
    assert [log.msg for log in parent.logs] == ["my.plugin: from a thread"]
    assert [record["record_type"] for record in parent.traces] == ["aside"]
    show(parent, 4, picture)
    until = time.monotonic() + HANGS
    while len(parent.logs) < 2 and time.monotonic() < until:
        # Nothing is sent to the child here.
        if parent.router.poll(100):
            message = protocol.decode_from_child(parent.router.recv_multipart()[1]).message
            if isinstance(message, protocol.Log):
                parent.logs.append(message)
    assert len(parent.logs) == 2


def test_a_bucket_lets_a_burst_through_and_then_its_rate():
    now = [0.0]
    cap = Cap(3, 2.0, clock=lambda: now[0])
    assert [cap.allows() for _ in range(5)] == [True] * 3 + [False] * 2
    assert cap.dropped == 2
    now[0] = 0.5
    assert [cap.allows(), cap.allows()] == [True, False]
    now[0] = 100.0
    assert [cap.allows() for _ in range(4)] == [True] * 3 + [False]


def test_dropped_records_are_told_in_the_log():
    sent = []
    reports = Reports(sent.append)
    for _ in range(600):
        reports.trace({"record_type": "x"})
    reports._traces._left = 5.0
    reports.trace({"record_type": "last"})
    messages = [protocol.decode_from_child(data).message for data in sent]
    (log,) = [m for m in messages if isinstance(m, protocol.Log)]
    assert log.level == "warn" and "trace records were dropped" in log.msg
    assert messages[-1] == protocol.TraceRecord({"record_type": "last"})


def test_a_record_that_is_no_json_is_told_in_the_log():
    sent = []
    Reports(sent.append).trace({"x": np.nan})
    (message,) = [protocol.decode_from_child(data).message for data in sent]
    assert message.level == "warn" and "not finite" in message.msg


def test_a_long_text_keeps_its_beginning_and_its_end():
    text = "head " + "é" * 70_000 + " tail"
    short = fitting(text)
    assert len(short.encode()) <= 65_536
    assert short.startswith("head é") and short.endswith("é tail") and "…" in short
    assert fitting("short") == "short"
    assert fitting("a\ud800b") == "a?b"
