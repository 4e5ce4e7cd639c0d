"""`visualpath` and `visualbase` where the venv has none, and not where it has."""

import subprocess
import sys
import textwrap

import pytest
from parent import HANGS, SRC, Parent

CODE = {"plugin.py": "class P:\n    def extract(self, frame): pass\n"}


def run(code, *path):
    """What a fresh interpreter with these folders on its path prints."""
    env = {"PYTHONPATH": ":".join(map(str, (*path, SRC))), "PYTHONDONTWRITEBYTECODE": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=env,
        capture_output=True,
        text=True,
        timeout=HANGS,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_everything_that_plugins_import_is_there():
    run(
        """
        import importlib.util
        from visualpath_edge import shims
        shims.install(); shims.install()
        import sys
        assert sum(type(f).__name__ == "_Finder" for f in sys.meta_path) == 1
        assert type(sys.meta_path[-1]).__name__ == "_Finder"
        from visualpath.core import BaseExtractor, BaseFusion, FusionResult, Module, Observation
        from visualpath.core.extractor import Observation as Same
        from visualpath.core.fusion import BaseFusion
        from visualpath.core.module import Module
        from visualpath.core.isolation import IsolationConfig, IsolationLevel
        from visualpath.plugin import PluginRegistry, discover_extractors, discover_fusions, create_extractor
        from visualpath.process.mapper import CompositeMapper, DefaultObservationMapper, ObservationMapper
        from visualpath.observability import ObservabilityHub, TraceLevel, Sink, MemorySink
        from visualpath.observability.records import TimingRecord
        from visualpath.observability.sinks import NullSink
        from visualpath.backends import DetectionBackend, DetectionResult
        from visualbase import Frame, Trigger, TriggerType
        import visualpath_edge.observation
        assert Observation is Same is visualpath_edge.observation.Observation
        assert importlib.util.find_spec("visualpath.flow") is None
        assert IsolationLevel.from_string("venv") > IsolationLevel.PROCESS
        assert IsolationConfig().get_level("x", IsolationLevel.THREAD) is IsolationLevel.THREAD
        try:
            import visualpath.flow
        except ModuleNotFoundError as error:
            assert error.name == "visualpath.flow"
        else:
            raise SystemExit("visualpath.flow is there")
        """
    )


def test_nothing_is_importable_before_it_is_asked_for():
    told = "import importlib.util, visualpath_edge; print(importlib.util.find_spec('visualpath'))"
    assert run(told) == "None"


def package(folder, files):
    for name, code in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(code)
    return folder


def test_an_installed_package_is_never_shadowed(tmp_path):
    package(
        tmp_path,
        {
            "visualpath/__init__.py": "mine = True",
            "visualpath/core/__init__.py": "class Observation:\n    theirs = True",
            "visualbase.py": "class Frame: theirs = True",
        },
    )
    run(
        """
        from visualpath_edge import mapping, shims
        shims.install()
        import visualpath, visualpath.core, visualbase
        assert visualpath.mine and visualpath.core.Observation.theirs and visualbase.Frame.theirs
        assert mapping.observation_class().theirs
        # Not mixed with ours either.
        try:
            import visualpath.observability
        except ModuleNotFoundError:
            pass
        else:
            raise SystemExit("mixed")
        """,
        tmp_path,
    )


def test_a_namespace_is_completed(tmp_path):
    package(tmp_path, {"visualpath/plugins/face/__init__.py": "here = True"})
    run(
        """
        from visualpath_edge import shims
        shims.install()
        from visualpath.plugins.face import here
        from visualpath.core import Observation
        """,
        tmp_path,
    )


def test_the_hub_of_an_installed_visualpath_reaches_the_parent(site, picture):
    """One with the interface of the published package, which keeps its records to itself."""
    package(
        site.path,
        {
            "visualpath/__init__.py": "",
            "visualpath/observability/__init__.py": textwrap.dedent(
                """
                from enum import IntEnum
                class TraceLevel(IntEnum):
                    OFF = 0; MINIMAL = 1; NORMAL = 2; VERBOSE = 3
                class ObservabilityHub:
                    hub = None
                    def __init__(self): self.sinks, self.level = [], TraceLevel.OFF
                    @classmethod
                    def get_instance(cls):
                        cls.hub = cls.hub or cls()
                        return cls.hub
                    @property
                    def enabled(self): return self.level > 0
                    def configure(self, level): self.level = level
                    def add_sink(self, sink): self.sinks.append(sink)
                    def emit(self, record):
                        for sink in self.sinks: sink.write(record)
                """
            ),
        },
    )
    code = """
from visualpath.observability import ObservabilityHub
class Record:
    def __init__(self): self.record_type, self.timestamp_ns, self.n = "theirs", 5, 1
class P:
    def extract(self, frame):
        hub = ObservabilityHub.get_instance()
        if hub.enabled: hub.emit(Record())
"""
    site("theirs", "1", extractors={"p": "theirs_plugin:P"}, modules={"theirs_plugin.py": code})
    with Parent("--plugin", "p", path=[site.path]) as parent:
        pool = parent.pool()
        parent.start(pools=[pool])
        parent.extract(pool.put(0, picture))
        assert parent.traces == [{"record_type": "theirs", "timestamp_ns": 5, "n": 1}]


def test_a_plugins_observation_class_is_that_of_the_installed_visualpath(site, picture):
    core = """
class Observation:
    def __init__(self, source, frame_id, t_ns, signals=None, data=None, metadata=None):
        self.source, self.signals, self.data, self.theirs = source, signals or {}, data, True
"""
    package(site.path, {"visualpath/__init__.py": "", "visualpath/core/__init__.py": core})
    code = """
from visualpath.core import Observation
class P:
    def process(self, frame, deps):
        return Observation("x", 1, 2, {"theirs": deps["face"].theirs})
"""
    site("theirs", "1", extractors={"p": "theirs_plugin:P"}, modules={"theirs_plugin.py": code})
    from visualpath_edge import protocol

    face = protocol.Observation("face", 7, {}, {}, {}, confidence=0.5)
    with Parent("--plugin", "p", path=[site.path]) as parent:
        pool = parent.pool()
        parent.start(pools=[pool])
        assert parent.extract(pool.put(0, picture), deps=[face]).items[0].signals == {"theirs": 1.0}


def test_the_registry_and_discovery_know_what_is_installed(site):
    site("several", "1.0", extractors={"p": "plugin:P"}, fusions={"f": "plugin:F"}, modules=CODE)
    run(
        """
        from visualpath_edge import shims
        shims.install()
        from visualpath.plugin import *
        from visualpath.plugin import PluginRegistry
        assert list(discover_extractors()) == ["p"] and list(discover_fusions()) == ["f"]
        assert type(create_extractor("p")).__name__ == load_extractor("p").__name__ == "P"
        registry = PluginRegistry()
        registry.register_extractor("q", int)
        assert registry.list_extractors() == ["p", "q"] and registry.create_extractor("q") == 0
        try:
            load_extractor("r")
        except KeyError as error:
            assert "there are: p" in str(error)
        """,
        site.path,
    )


def test_the_hub_is_off_outside_of_a_worker_and_hands_on_when_configured():
    from visualpath_edge.observing import MemorySink, ObservabilityHub, TimingRecord, TraceLevel

    hub = ObservabilityHub()
    sink = MemorySink()
    hub.add_sink(sink)
    hub.emit(TimingRecord())
    assert not hub.enabled and len(sink) == 0
    hub.configure(TraceLevel.MINIMAL)
    hub.emit(TimingRecord())
    assert len(sink) == 0, "a timing is a record of the level normal"
    hub.configure(TraceLevel.NORMAL)
    hub.emit(TimingRecord(frame_id=3))
    hub.emit({"record_type": "own"})
    assert [r.frame_id for r in sink.get_records("timing")] == [3] and len(sink) == 2
    with pytest.raises(ValueError):
        TimingRecord(processing_ms=float("nan")).to_json()
