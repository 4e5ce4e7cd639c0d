"""A worker's life: how it starts, what it answers, how it ends."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from parent import HANGS, PLUGINS, SRC, Parent

from visualpath_edge import protocol

ENTRY_POINT = {"extractors": {"shape": "examples:ArrayShape"}, "fusions": {"counts": "examples:Counts"}}


def test_an_installed_extractor_is_found_by_its_name_and_says_what_it_is(site):
    site("my-plugins", "1.2.3", **ENTRY_POINT)
    with Parent("--plugin", "shape", path=[site.path]) as parent:
        hello = parent.hello
        assert (hello.token, hello.name, hello.version) == (parent.token, "shape", "1.2.3")
        assert (hello.protocols, hello.codecs) == ([1], ["json/1"])
        ready = parent.start()
        assert ready == protocol.Ready(input=protocol.Input(format="bgr"))
        assert parent.ask(protocol.Ping()) == protocol.Pong(extractor="mine")
        assert parent.shut_down() == 0


def test_an_installed_fusion_is_found_by_its_name(site):
    site("my-plugins", "1.2.3", **ENTRY_POINT)
    with Parent("--kind", "fusion", "--plugin", "counts", path=[site.path]) as parent:
        assert parent.start() == protocol.Ready()


def test_a_name_that_is_not_installed_is_a_config_error_that_says_what_is(site):
    site("my-plugins", "1.2.3", **ENTRY_POINT)
    with Parent("--plugin", "shapes", path=[site.path]) as parent:
        report = parent.start()
        assert (report.kind, "near: shape" in report.error) == ("config", True), report
        # It tells the same whatever it is asked, until it is ended.
        assert parent.ask(protocol.Ping()) == report
        assert parent.shut_down() == 0


def test_two_plugins_of_one_name_are_an_error_that_names_both(site):
    site("my-plugins", "1.2.3", **ENTRY_POINT)
    site("others", "2.0", extractors={"shape": "others:Shape"})
    with Parent("--plugin", "shape", path=[site.path]) as parent:
        report = parent.start()
        assert report.kind == "config"
        assert "examples:ArrayShape" in report.error and "others:Shape" in report.error


def test_a_plugin_that_can_not_be_imported_is_told_with_its_traceback(site):
    modules = {"broken.py": "import not_there_at_all\n"}
    site("broken", "1", extractors={"broken": "broken:Broken"}, modules=modules)
    with Parent("--plugin", "broken", path=[site.path]) as parent:
        report = parent.start()
        assert report.error == "ModuleNotFoundError: No module named 'not_there_at_all'"
        assert "broken.py" in report.traceback and report.kind == "plugin"


@pytest.mark.parametrize(
    "cls, kind, error",
    [
        # The constructor's own TypeError comes through: it is not tried out without arguments.
        ("BadConstructor", "plugin", "TypeError: object of type 'int' has no len()"),
        ("BadConfig", "config", "ConfigError: threshold: 7 is not in 0..1"),
        ("NoMethods", "plugin", "TypeError: NoMethods has no method extract(frame)"),
        ("BadInput", "plugin", "ready: input: format: expected one of"),
        ("Nothing", "plugin", "AttributeError"),
    ],
)
def test_what_is_wrong_at_the_start_is_told_by_kind(child, cls, kind, error):
    report = child(cls, ready=False).start({"threshold": 7})
    assert (report.kind, report.error[: len(error)]) == (kind, error)


def test_it_is_made_with_its_config_zones_models_and_name(child, tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"")
    zone = protocol.Zone("door", [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]], "bottom")
    parent = child("Surroundings", ready=False)
    pool = parent.pool()
    config = {"threshold": 0.5, "model": True}
    dirs = [str(tmp_path / "nowhere"), str(tmp_path)]
    parent.start(config, [pool], zones=[zone], name="front_door", model_dirs=dirs)
    import numpy as np

    told = parent.extract(pool.put(0, np.zeros((48, 64, 3), np.uint8))).items[0]
    assert told.extractor == "front_door"
    path = told.data.pop("path")
    # Not the working directory, which the plugin can write to.
    assert path == [str(PLUGINS)]
    model = str(tmp_path / "a.onnx")
    assert told.data == {"name": "front_door", "zones": ["door"], "model": model, "config": config}


def test_a_model_that_is_nowhere_is_a_model_error(child):
    report = child("Surroundings", ready=False).start({"model": True}, model_dirs=["models"])
    assert report.kind == "model" and "a.onnx" in report.error and "models" in report.error


def test_each_optional_method_is_called_in_its_time(child, tmp_path, picture):
    life = tmp_path / "life"
    parent = child("Life", env={"LIFE": str(life)})
    assert parent.progress == [(50.0, "half-way")]
    assert parent.ready == protocol.Ready(input=protocol.Input(format="bgr"))
    assert parent.extract(parent.pool1.put(0, picture)).items == []
    assert parent.ask(protocol.Reset()) == protocol.Ok()
    assert parent.shut_down() == 0
    assert life.read_text().split("\n") == ["made", "initialized", "extract", "reset", "cleaned up", ""]


def test_a_class_that_declares_nothing_has_its_own_attributes(child, picture):
    parent = child("OwnAttributes")
    assert parent.ready == protocol.Ready(input=protocol.Input(format="bgr"))
    assert parent.extract(parent.pool1.put(0, picture)).items[0].signals == {"width": 64.0}


# -- faults ------------------------------------------------------------------------------------------


def fault(parent, number, picture):
    return parent.extract(parent.pool1.put(0, picture, frame_id=number))


def test_an_exception_is_an_error_with_the_plugins_traceback_and_the_next_frame_is_seen(child, picture):
    parent = child("Faults")
    report = fault(parent, 1, picture)
    assert report.error == "ValueError: no face model" and report.kind == "plugin"
    lines = report.traceback.splitlines()
    assert lines[0] == "Traceback (most recent call last):" and "examples.py" in lines[1]
    assert "raise ValueError" in report.traceback and "visualpath_edge" not in report.traceback
    assert fault(parent, 99, picture).items[0].signals == {"fine": 1.0}


def test_a_plugin_that_writes_into_its_frame_gets_numpys_error(child, picture):
    parent = child("Faults")
    report = fault(parent, 2, picture)
    assert report.error == "ValueError: assignment destination is read-only"
    assert "frame.data[0, 0] = 255" in report.traceback
    assert fault(parent, 99, picture).items[0].signals == {"fine": 1.0}


@pytest.mark.parametrize(
    "number, error, status",
    [
        (3, "KeyboardInterrupt: (no message)", 1),
        (4, "SystemExit: 3", 3),
        (5, "SystemExit: (no message)", 0),
    ],
)
def test_a_plugin_that_ends_the_process_is_answered_for_first(child, picture, number, error, status):
    parent = child("Faults")
    assert fault(parent, number, picture).error == error
    assert parent.wait() == status


@pytest.mark.parametrize(
    "number, error",
    [
        (6, "RecursionError: maximum recursion depth exceeded"),
        (7, "expected an Observation, a list of them or None, got int"),
        (8, "the answer is too large: a message of 52"),
        (9, "257 observations; at most 256"),
        (10, "data"),
    ],
)
def test_an_answer_that_can_not_be_sent_is_an_error(child, picture, number, error):
    parent = child("Faults")
    report = fault(parent, number, picture)
    assert (report.kind, report.error[: len(error)]) == ("plugin", error)
    assert fault(parent, 99, picture).items[0].signals == {"fine": 1.0}


def test_an_error_in_clean_up_is_told_and_does_not_change_the_end(child):
    parent = child("Faults")
    parent.tell(protocol.Shutdown())
    with pytest.raises(TimeoutError):
        parent.receive(None, hangs=1)
    assert [log.msg for log in parent.logs] == ["cleanup: RuntimeError: cleaning up fails"]
    assert parent.wait() == 0


# -- what is not understood --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data, id, error",
    [
        (b"{", 0, "no message"),
        (b"\xff\xfe", 0, "no message"),
        (b'{"v":1,"id":70,"type":"dance"}', 70, 'unknown message type "dance"'),
        (b'{"v":2,"id":71,"type":"ping"}', 71, "protocol 2; this side speaks 1"),
        (b'{"v":1,"id":72,"type":"extract"}', 72, "extract: frame is missing"),
        (b'{"v":1,"id":73,"type":"ready"}', 73, 'unknown message type "ready"'),
        (b'{"v":1,"id":74,"type":"fuse","frame_id":1,"t_ns":1,"observations":{},"missing":[]}', 74,
         "this is an extractor, not a fusion"),
        (b'{"v":1,"id":75,"type":"hello","codec":"json/1","config":{},"zones":[],"pools":[]}', 75,
         "hello: a second one"),
        (b" " * ((4 << 20) + 1), 0, "a message of"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_answered_so(child, picture, data, id, error):
    parent = child("ArrayShape")
    parent.send_raw(data)
    report = parent.receive(id)
    assert (report.kind, report.error[: len(error)]) == ("protocol", error)
    assert parent.extract(parent.pool1.put(0, picture)).items


def test_nothing_answers_an_error(child):
    parent = child("ArrayShape")
    parent.send_raw(protocol.encode(protocol.ErrorReport("no"), 5))
    assert parent.ask(protocol.Ping()) == protocol.Pong(extractor="mine")


def test_parts_beside_a_message_that_has_none_are_an_error(child):
    parent = child("ArrayShape")
    assert parent.ask(protocol.Ping(), b"more").kind == "protocol"
    report = parent.ask(protocol.Ping(), *[b"more"] * 100)
    assert report.kind == "protocol"
    assert parent.ask(protocol.Ping()) == protocol.Pong(extractor="mine")


def test_a_codec_that_was_not_offered_is_refused(child):
    report = child("ArrayShape", ready=False).start(codec="postcard/1")
    assert report.kind == "protocol" and "postcard/1" in report.error


def test_a_refused_hello_ends_it(child):
    parent = child("ArrayShape", ready=False)
    parent.send_raw(protocol.encode(protocol.ErrorReport("too old"), 0))
    assert parent.wait() == 2
    assert "too old" in parent.written()


def test_a_request_before_hello_is_an_error(child, picture):
    parent = child("ArrayShape", ready=False)
    assert parent.ask(protocol.Reset()).error == "no hello yet"


# -- the end -----------------------------------------------------------------------------------------


def test_it_ends_when_the_socket_of_pools_does(child, tmp_path):
    life = tmp_path / "life"
    parent = child("Life", env={"LIFE": str(life)})
    parent.pool_socket.close()
    assert parent.wait() == 0
    assert life.read_text().endswith("cleaned up\n")


def test_it_ends_when_its_parent_is_killed(tmp_path):
    """The parent is a process of its own here, killed without a word."""
    code = textwrap.dedent(
        """
        import sys
        from parent import Parent
        parent = Parent("--entry-point", "examples:ArrayShape")
        parent.start(pools=[parent.pool()])
        print(parent.process.pid, flush=True)
        sys.stdin.read()
        """
    )
    path = os.pathsep.join([str(Path(__file__).parent), str(SRC)])
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    try:
        pid = int(parent.stdout.readline())
        child = os.pidfd_open(pid) if hasattr(os, "pidfd_open") else None
        parent.kill()
        parent.wait(HANGS)
        until = time.monotonic() + HANGS
        while alive(pid) and time.monotonic() < until:
            time.sleep(0.01)
        assert not alive(pid)
        if child is not None:
            os.close(child)
    finally:
        parent.kill()
        parent.communicate()


def alive(pid):
    try:
        # A zombie whose new parent has not waited yet is over.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_ctrl_c_is_not_for_it(child, picture):
    parent = child("ArrayShape")
    os.killpg(parent.process.pid, signal.SIGINT)
    assert parent.extract(parent.pool1.put(0, picture)).items
    assert parent.shut_down() == 0


def test_a_plugins_thread_does_not_hold_up_the_end(site):
    code = """
import threading, time
class Threaded:
    def initialize(self):
        threading.Thread(target=time.sleep, args=(600,)).start()
    def extract(self, frame):
        pass
"""
    entry = {"threaded": "threaded_plugin:Threaded"}
    site("threaded", "1", extractors=entry, modules={"threaded_plugin.py": code})
    with Parent("--plugin", "threaded", path=[site.path]) as parent:
        parent.start()
        assert parent.shut_down() == 0


def test_what_is_installed_is_listed_for_the_appliance(site):
    site("my-plugins", "1.2.3", **ENTRY_POINT)
    ended = subprocess.run(
        [sys.executable, "-m", "visualpath_edge.worker", "--list"],
        env={"PYTHONPATH": f"{site.path}:{SRC}"},
        capture_output=True,
        timeout=HANGS,
        check=True,
    )
    told = {"version": "1.2.3", "entry_point": "examples:ArrayShape", "name": "shape", "kind": "extractor"}
    fusion = {"version": "1.2.3", "entry_point": "examples:Counts", "name": "counts", "kind": "fusion"}
    assert json.loads(ended.stdout) == [told, fusion]


def test_a_crash_in_native_code_leaves_the_plugins_line_in_the_log(child, picture):
    parent = child("Crashes")
    with pytest.raises(TimeoutError):
        parent.extract(parent.pool1.put(0, picture))
    assert parent.wait() == -signal.SIGSEGV
    assert "Segmentation fault" in parent.written() and "examples.py" in parent.written()


@pytest.mark.parametrize("missing", ["VISUALPATH_ENDPOINT", "VISUALPATH_TOKEN", "fd 3"])
def test_by_hand_it_says_what_is_missing(missing):
    env = {
        "PYTHONPATH": str(SRC), "VISUALPATH_ENDPOINT": "ipc:///nowhere", "VISUALPATH_TOKEN": "t",
    }  # fmt: skip
    env.pop(missing, None)
    command = [sys.executable, "-m", "visualpath_edge.worker", "--plugin", "x"]
    ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=HANGS)
    assert ended.returncode == 2
    assert (missing.replace("fd", "descriptor")) in ended.stderr
