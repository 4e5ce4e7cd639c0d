"""Plugins that tests run in a real child. Each is as its author would write it."""

import dataclasses
import logging
import os
import sys
import threading
import time

import numpy as np
from visualbase import Trigger
from visualpath.core import BaseExtractor, BaseFusion, FusionResult, Module, Observation
from visualpath.observability import ObservabilityHub, TimingRecord

import visualpath_edge

# -- the two shapes of the issue ---------------------------------------------------------------------


class ArrayShape(BaseExtractor):
    name = "array_shape"
    version = "1.0.0"

    def __init__(self, config=None):
        super().__init__(config)
        self.seen = 0

    def extract(self, frame: np.ndarray, frame_id: int):
        self.seen += 1
        return [
            Observation(
                source="array_shape",
                frame_id=frame_id,
                signals={"first": frame[0, 0, 0], "mean": frame.mean(), "seen": self.seen},
                data={"shape": frame.shape, "writeable": frame.flags.writeable},
            )
        ]

    def reset(self) -> None:
        self.seen = 0


class FrameShape:
    """Not even a base class."""

    signals = ["mean"]
    input = {"format": "rgb", "width": 32, "height": 32, "fit": "letterbox"}
    models = [{"name": "none", "version": "1", "sha256": "00", "runtime": "numpy 1"}]

    def extract(self, frame):
        if frame.frame_id == 404:
            return None
        return Observation(
            source="mine",
            frame_id=frame.frame_id,
            t_ns=frame.t_src_ns,
            signals={"mean": frame.data.mean()},
            data={
                "size": [frame.width, frame.height],
                "frame": [frame.frame_width, frame.frame_height],
                "format": frame.format,
                "roi": frame.roi,
                "corner": frame.to_frame(frame.width, frame.height),
                "epoch": frame.epoch,
            },
            confidence=np.float32(0.5),
            timing={"detect": 1.5},
        )


class WithDeps(Module):
    name = "with_deps"
    depends = ["face"]

    def process(self, frame, deps=None):
        face = deps.get("face")
        if face is None:
            return []
        return Observation(
            signals={"from": face.signals["count"], "several": len(deps.all("face"))},
            data={"of": face.source, "t_ns": face.t_ns, "label": face.data["objects"][0]["label"]},
        )


class ExtractWithDeps(BaseExtractor):
    def extract(self, frame, deps=None):
        return Observation(signals={"deps": len(deps), "width": frame.width})


# -- life --------------------------------------------------------------------------------------------


class Life:
    """Writes down what is called, in its working directory."""

    def __init__(self):
        self._say("made")

    def _say(self, word):
        with open(os.environ["LIFE"], "a") as file:
            file.write(word + "\n")

    def initialize(self):
        visualpath_edge.progress(50, "half-way")
        self._say("initialized")

    def extract(self, frame):
        self._say("extract")
        return None

    def reset(self):
        self._say("reset")

    def cleanup(self):
        self._say("cleaned up")


class Surroundings(BaseExtractor):
    """Gives what it was told."""

    def __init__(self, config):
        super().__init__(config)
        here = visualpath_edge.context()
        self.told = {
            "name": here.name,
            "zones": [z.name for z in here.zones],
            "model": str(here.model("a.onnx")) if config.get("model") else None,
            "config": config,
            "path": sys.path[:1],
        }

    def extract(self, frame):
        return Observation(data=self.told)


class BadConstructor:
    def __init__(self, config):
        len(5)

    def extract(self, frame):
        return None


class BadConfig:
    def __init__(self, config):
        raise visualpath_edge.ConfigError("threshold: 7 is not in 0..1")

    def extract(self, frame):
        return None


class NoMethods:
    pass


class BadInput:
    input = {"format": "nv12"}

    def extract(self, frame):
        return None


class OwnAttributes:
    """Has attributes that are called like ours and are not."""

    def __init__(self):
        self.input = "images:0"
        self.models = {"a": 1}
        self.signals = lambda: None

    def extract(self, frame):
        return Observation(signals={"width": frame.width})


# -- faults ------------------------------------------------------------------------------------------


class Faults:
    """Does what the frame's number says."""

    def extract(self, frame):
        do = {
            1: self.raises, 2: self.writes, 3: self.interrupts, 4: self.exits, 5: self.exits_well,
            6: self.recursion, 7: self.returns_int, 8: self.huge, 9: self.many, 10: self.deep,
        }.get(frame.frame_id)  # fmt: skip
        return do(frame) if do else Observation(signals={"fine": 1})

    def raises(self, frame):
        raise ValueError("no face\nmodel")

    def writes(self, frame):
        frame.data[0, 0] = 255

    def interrupts(self, frame):
        raise KeyboardInterrupt

    def exits(self, frame):
        sys.exit(3)

    def exits_well(self, frame):
        sys.exit()

    def recursion(self, frame):
        return self.recursion(frame)

    def returns_int(self, frame):
        return 5

    def huge(self, frame):
        return Observation(data={"text": "x" * (5 << 20)})

    def many(self, frame):
        return [Observation() for _ in range(257)]

    def deep(self, frame):
        inside = []
        for _ in range(100):
            inside = [inside]
        return Observation(data={"deep": inside})

    def cleanup(self):
        raise RuntimeError("cleaning up fails")


class Keeps:
    """Keeps (a part of) the frames whose number is below 100."""

    def __init__(self, config):
        self.config = config
        self.kept = []

    def extract(self, frame):
        how = self.config.get("how", "array")
        if frame.frame_id < 100:
            self.kept.append(
                {
                    "array": lambda: frame.data,
                    "slice": lambda: frame.data[10:20, ::2],
                    "frame": lambda: frame,
                    "observation": lambda: Observation(data=frame.data[:1]),
                    "circle": lambda: None,
                }[how]()
            )
        if how == "circle":
            circle = [frame.data]
            circle.append(circle)
        if frame.frame_id == 66:
            raise ValueError("kept and raised")
        sums = [
            int(np.asarray(getattr(k, "data", k)).sum()) for k in self.kept if how in ("array", "slice")
        ]
        return Observation(
            signals={"sum": frame.data.sum()},
            data={"sums": sums, "writeable": frame.data.flags.writeable, "kept": len(self.kept)},
        )

    def reset(self):
        self.kept.clear()


class Talks:
    """Logs, prints, warns and emits."""

    def __init__(self):
        self.log = logging.getLogger("my.plugin")

    def extract(self, frame):
        import warnings

        if frame.frame_id == 2:
            for i in range(1000):
                self.log.info("line %d", i)
            return None
        if frame.frame_id == 3:
            thread = threading.Thread(target=self.aside)
            thread.start()
            thread.join()
            return None
        if frame.frame_id == 4:
            threading.Timer(0.2, self.aside).start()
            return None
        self.log.debug("not worth a line")
        self.log.info("hello %s", "there")
        self.log.error("oh \udcff no")
        warnings.warn("old", UserWarning)
        print("printed")
        ObservabilityHub.get_instance().emit(
            TimingRecord(frame_id=frame.frame_id, component="mine", processing_ms=np.float32(1.5))
        )
        ObservabilityHub.get_instance().emit({"record_type": "own", "x": np.arange(3)})
        return None

    def aside(self):
        self.log.warning("from a thread")
        ObservabilityHub.get_instance().emit({"record_type": "aside"})


# -- observations ------------------------------------------------------------------------------------


@dataclasses.dataclass
class Face:
    box: tuple
    score: float


class Special:
    """Nothing that JSON knows."""

    def __init__(self, number):
        self.number = number


class SpecialMapper:
    def to_message(self, observation):
        if not isinstance(observation.data, Special):
            return None
        return {"special": observation.data.number}

    def from_message(self, message):
        return None


class TextMapper:
    """Its own wire format, both ways."""

    def to_message(self, observation):
        if observation.data != "as text":
            return None
        return f"FACE|{observation.frame_id}|{observation.signals['count']}"

    def from_message(self, message):
        if not message.startswith("FACE|"):
            return None
        _, frame_id, count = message.split("|")
        return Observation(source="text", frame_id=int(frame_id), signals={"count": float(count)})


class Maps:
    observation_mapper = [TextMapper(), SpecialMapper()]

    def process(self, frame, deps):
        given = {
            1: Special(5),
            2: "as text",
            3: Face((1, 2), 0.5),
            4: {"faces": [Face((np.int64(1), 2), np.float32(0.5))], "ids": {np.int64(7): "a"}},
            5: [1, 2, 3],
            6: object(),
        }.get(frame.frame_id)
        if frame.frame_id == 7:
            return Observation(data={"read": [deps["text"].frame_id, deps["text"].signals["count"]]})
        return Observation(frame_id=frame.frame_id, signals={"count": 2}, data=given)


class Numbers:
    """Signals and data by the frame's number."""

    def extract(self, frame):
        return {
            1: lambda: Observation(
                signals={
                    "f32": np.float32(0.5), "f64": np.float64(1.25), "i": np.int64(-3),
                    "u8": np.uint8(200), "b": np.bool_(True), "zero_d": np.array(2.5),
                    "one": np.array([4]), "vector": np.array([1, 2, 3], np.int16), "py": 7,
                },
                data={"a": np.arange(6).reshape(2, 3), "n": np.float16(0.5), "t": (1, 2), "s": {3}},
                metadata={"k": np.array([True, False]), "when": np.int32(5)},
                confidence=np.float32(0.25),
            ),
            2: lambda: Observation(signals={"fine": 1.0, "score": float("nan")}),
            3: lambda: Observation(signals={"score": np.float32("inf")}),
            4: lambda: Observation(signals={"score": "high"}),
            5: lambda: Observation(signals={"score": None}),
            6: lambda: Observation(data={"faces": [{"score": 0.5}, {"score": np.nan}]}),
            7: lambda: Observation(data={"a": 10**400}),
            8: lambda: Observation(data={"a": "\ud800"}),
            9: lambda: Observation(confidence=float("nan")),
            10: lambda: [Observation(), Observation(signals={"x" * 300: 1.0})],
            11: lambda: Observation(signals={f"s{i}": 1.0 for i in range(257)}),
            12: lambda: Observation(t_ns=1.5),
            13: lambda: Observation(
                data={"objects": [{"label": "face", "score": np.float32(1), "bbox": np.zeros(4)}]}
            ),
            14: lambda: (Observation(signals={"i": i}) for i in range(3)),
            15: lambda: [Observation(signals={"i": 1}), None],
            16: lambda: Observation(signals={"big": 10**400}),
            17: lambda: Observation(signals={"v": np.array([1.0, np.inf])}),
        }.get(frame.frame_id, lambda: None)()  # fmt: skip


# -- fusions -----------------------------------------------------------------------------------------


class Counts(BaseFusion):
    """By dict; fires when anybody is there."""

    name = "counts"

    def process(self, observations):
        people = observations.get("person", [])
        triggers = [
            Trigger.point(
                o.t_ns, label="Visitor!", score=o.signals["max_confidence"], pre_sec=1, post_sec=0.5
            )
            for o in people
            if o.signals["count"] > 0
        ]
        return FusionResult(
            triggers=triggers,
            reason="somebody" if triggers else "",
            metadata={
                "keys": list(observations), "missing": observations.missing, "t_ns": observations.t_ns,
                "unix_ns": observations.unix_ns, "source": observations.source,
            },
            states={"Visitor!": bool(triggers)},
        )  # fmt: skip

    def gap(self, from_ns, to_ns):
        return FusionResult(triggers=[
            Trigger.range(from_ns, to_ns, label="gap", metadata={"best_ns": from_ns + 1})
        ])

    def end(self, t_ns):
        return FusionResult(should_trigger=True, reason="over")

    def reset(self):
        self.config["reset"] = True


class Updates(BaseFusion):
    """Observation by observation."""

    def __init__(self, config=None):
        super().__init__(config)
        self.order = []

    def update(self, observation):
        self.order.append(observation.source)
        fires = observation.signals.get("count", 0) > 1
        return FusionResult(
            should_trigger=fires,
            trigger=Trigger.point(observation.t_ns - 40_000_000) if fires else None,
            score=0.75,
            reason=f"{observation.source} fires" if fires else "",
            metadata={"order": list(self.order)},
        )


class UpdatesList:
    def update(self, observations: "list[Observation]"):
        return FusionResult(observations_used=len(observations))


class BadFusions:
    def process(self, observations):
        frame_id = observations.frame_id
        if frame_id == 1:
            raise KeyError("person")
        if frame_id == 2:
            return 5
        if frame_id == 3:
            return FusionResult(triggers=[{"score": float("nan")}])
        if frame_id == 4:
            return FusionResult(triggers=[{}] * 65)
        if frame_id == 5:
            return FusionResult(triggers=[{"start_time_ns": 5, "end_time_ns": 4}])
        if frame_id == 6:
            return [None, FusionResult(triggers=[{"label": "in", "clip": False, "score": 1}])]
        return None


class NoFusion(Module):
    def process(self, frame, deps):
        return None


class Sleeps:
    """Tells the test when it is in the middle of a frame."""

    def extract(self, frame):
        print("sleeping", flush=True)
        time.sleep(600)


class BlocksDecoders:
    """Makes modules unimportable, as in a venv without them."""

    def __init__(self):
        exec(os.environ["BLOCK"], {})

    def extract(self, frame):
        mean = frame.data.reshape(-1, frame.data.shape[2] if frame.data.ndim == 3 else 1).mean(axis=0)
        return Observation(data={"shape": frame.data.shape, "mean": mean})


class AnyShape:
    """Gives the frame back."""

    def extract(self, frame):
        data = frame.data
        told = {"shape": data.shape, "bytes": data.ravel(), "writeable": data.flags.writeable}
        return Observation(data=told)


class Crashes:
    """As a broken native library does."""

    def extract(self, frame):
        import ctypes

        ctypes.string_at(0)
