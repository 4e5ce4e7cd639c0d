"""Fusions of Python: every form of them, and what becomes of their triggers."""

import pytest

from visualpath_edge import protocol
from visualpath_edge.fusing import Fusing
from visualpath_edge.observation import FusionResult
from visualpath_edge.trigger import Trigger, TriggerType

MS = 1_000_000


def seen(extractor, frame_id, count=1.0, **data):
    return protocol.Observation(
        extractor=extractor, frame_id=frame_id, signals={"count": count, "max_confidence": 0.9},
        data=data, metadata={}, t_ns=frame_id * 40 * MS,
    )  # fmt: skip


def fuse(frame_id, observations, missing=(), **more):
    return protocol.Fuse(
        frame_id=frame_id, t_ns=frame_id * 40 * MS, observations=observations, missing=list(missing), **more
    )


@pytest.fixture
def fusion(child):
    def start(cls, config=None, **said):
        parent = child(cls, "--kind", "fusion", ready=False)
        parent.ready = parent.start(config, **said)
        return parent

    return start


def test_a_fusion_gets_every_extractor_in_the_configs_order_and_its_triggers_are_completed(fusion):
    parent = fusion("Counts", name="crowd")
    assert parent.ready == protocol.Ready()
    box = {"label": "Person", "score": 0.9, "bbox": [0.1, 0.2, 0.3, 0.4]}
    told = fuse(
        5,
        {"person": [seen("person", 5, objects=[box, {"label": "no box"}])], "face": []},
        ["motion"], source="cam0", unix_ns=1_795_377_600_000_000_000,
    )  # fmt: skip
    answer = parent.ask(told)
    assert answer.metadata == {
        "keys": ["person", "face"], "missing": ["motion"], "t_ns": 200 * MS,
        "unix_ns": 1_795_377_600_000_000_000, "source": "cam0",
    }  # fmt: skip
    assert answer.states == [protocol.State("visitor_", True)]
    assert (answer.score, answer.reason, answer.observations_used) == (0.9, "somebody", 1)
    (trigger,) = answer.triggers
    assert trigger == protocol.Trigger(
        label="visitor_", kind="point", phase="point", event=1, frame_id=5, t_ns=200 * MS,
        fired_ns=200 * MS, event_start_ns=200 * MS, event_end_ns=200 * MS,
        t_start_ns=-800 * MS, t_end_ns=700 * MS, score=0.9, reason="somebody", observations_used=1,
        signals={"person.count": 1.0, "person.max_confidence": 0.9},
        objects=[protocol.Object("Person", 0.9, [0.1, 0.2, 0.3, 0.4], 0.0, [], [])],
        clip=True, metadata={},
    )  # fmt: skip
    nobody = parent.ask(fuse(6, {"person": [seen("person", 6, 0.0)]}))
    assert (nobody.triggers, nobody.states) == ([], [protocol.State("visitor_", False)])
    assert parent.ask(fuse(7, {"person": [seen("person", 7)]})).triggers[0].event == 2


def test_gap_end_and_reset_reach_a_fusion_that_asks_for_them(fusion):
    parent = fusion("Counts", name="crowd")
    parent.ask(fuse(5, {}))
    start, end = parent.ask(protocol.Gap(200 * MS, 900 * MS)).triggers
    assert (start.kind, start.phase, start.event) == ("range", "start", 1)
    assert (end.phase, end.event) == ({"end": {"reason": "released"}}, 1)
    for trigger in (start, end):
        assert (trigger.event_start_ns, trigger.event_end_ns) == (200 * MS, 900 * MS)
        assert (trigger.t_start_ns, trigger.t_end_ns) == (-2800 * MS, 2900 * MS)
        assert trigger.metadata == {"best_ns": 200 * MS + 1}
    (over,) = parent.ask(protocol.End(900 * MS)).triggers
    # A result that fires without a trigger has one at the frame, under the fusion's name.
    assert (over.label, over.reason, over.t_ns, over.frame_id) == ("crowd", "over", 200 * MS, 5)
    assert parent.ask(protocol.Reset()) == protocol.Ok()
    assert parent.ask(protocol.Ping()) == protocol.Pong("crowd")
    assert parent.shut_down() == 0


def test_a_fusion_by_update_is_called_for_each_observation_in_the_extractors_order(fusion):
    parent = fusion("Updates")
    parent.ask(fuse(3, {"b": [], "a": []}))
    answer = parent.ask(fuse(4, {"b": [seen("b", 4), seen("b", 4)], "a": [seen("a", 4, 2.0)]}))
    assert answer.metadata == {"order": ["b", "b", "a"]}
    assert (answer.score, answer.reason, answer.observations_used) == (0.75, "a fires", 3)
    (trigger,) = answer.triggers
    # The event was one frame ago.
    assert (trigger.frame_id, trigger.t_ns, trigger.fired_ns) == (3, 120 * MS, 160 * MS)
    assert (trigger.label, trigger.score, trigger.reason) == ("mine", 0.75, "a fires")
    # It has no methods for these.
    assert parent.ask(protocol.Gap(1, 2)).triggers == parent.ask(protocol.End(3)).triggers == []


def test_a_fusion_may_take_a_list(fusion):
    parent = fusion("UpdatesList")
    assert parent.ask(fuse(4, {"b": [seen("b", 4)], "a": [seen("a", 4)]})).observations_used == 2


@pytest.mark.parametrize(
    "frame_id, error",
    [
        (1, "KeyError: 'person'"),
        (2, "expected a FusionResult or None, got int: it has neither triggers nor should_trigger"),
        (3, "score is nan: numbers must be finite"),
        (4, "65 triggers; at most 64 at a frame"),
        (5, "a range from 5 to 4"),
    ],
)
def test_what_can_not_be_told_is_an_error_and_the_next_frame_is_fused(fusion, frame_id, error):
    parent = fusion("BadFusions")
    report = parent.ask(fuse(frame_id, {}))
    assert (report.kind, report.error) == ("plugin", error)
    assert parent.ask(fuse(7, {})) == protocol.FusionAnswer([], 0.0, "", 0, {})
    (trigger,) = parent.ask(fuse(6, {})).triggers
    # `in` is a word of the rules' language and no name.
    assert (trigger.label, trigger.clip, trigger.score) == ("in_", False, 1.0)


def test_an_extractor_is_no_fusion_and_the_other_way_round(fusion, child):
    report = fusion("NoFusion").ready
    assert report.error.startswith("TypeError: NoFusion.process(frame, deps) is no fusion")
    parent = fusion("Counts")
    frame = protocol.FrameRef(0, 0, 0, 0, 0, 1, 1, "grey", 1, 0, 1, 1, [0.0, 0.0, 1.0, 1.0])
    report = parent.ask(protocol.Extract(frame=frame, deps=[]))
    assert (report.kind, report.error) == ("protocol", "this is a fusion, not an extractor")


def test_a_fusion_knows_its_extractors(site):
    from parent import Parent

    code = """
import visualpath_edge
from visualpath.core import FusionResult
class Knows:
    def process(self, observations):
        told = [(e.name, e.signals, e.zones) for e in visualpath_edge.context().extractors]
        return FusionResult(metadata={"told": told})
"""
    site("knows", "1", fusions={"knows": "knows:Knows"}, modules={"knows.py": code})
    with Parent("--kind", "fusion", "--plugin", "knows", path=[site.path]) as parent:
        parent.start(extractors=[protocol.ExtractorSignals("person", ["count"], ["door"])])
        assert parent.ask(fuse(1, {})).metadata == {"told": [["person", ["count"], ["door"]]]}


# -- by itself ---------------------------------------------------------------------------------------


def answered(*triggers, at=0, **result):
    fusing = Fusing("crowd")
    for frame_id in range(100):
        fusing.saw(frame_id, frame_id * 40 * MS)
    return fusing.answer([FusionResult(triggers=list(triggers), **result)], {}).triggers


def test_an_event_between_two_frames_is_that_of_the_earlier():
    (trigger,) = answered(Trigger.point(95 * MS))
    assert (trigger.frame_id, trigger.t_ns, trigger.event_start_ns) == (2, 80 * MS, 95 * MS)
    (before,) = answered(Trigger.point(-1))
    assert (before.frame_id, before.t_ns) == (0, 0)


def test_any_object_with_the_fields_is_a_trigger():
    class Fires:
        kind = "point"
        t_ns = 400 * MS
        label = "Loud Noise"
        pre_s = 1
        post_s = 0
        score = 0.5
        reason = "it was loud"
        signals = {"sound.level": 3}

    (trigger,) = answered(Fires())
    assert (trigger.label, trigger.t_ns, trigger.score) == ("loud_noise", 400 * MS, 0.5)
    assert (trigger.t_start_ns, trigger.t_end_ns) == (-600 * MS, 400 * MS)
    assert (trigger.reason, trigger.signals) == ("it was loud", {"sound.level": 3.0})


@pytest.mark.parametrize(
    "label, name", [("7 dwarfs", "t_7_dwarfs"), ("É", "t__"), ("type", "type_"), ("", "crowd")]
)
def test_every_label_becomes_a_name(label, name):
    assert answered({"label": label})[0].label == name


def test_triggers_of_python_check_themselves():
    with pytest.raises(ValueError, match="event_time_ns"):
        Trigger(TriggerType.POINT)
    with pytest.raises(ValueError, match="RANGE"):
        Trigger.range(5, 4)
    trigger = Trigger.range(10_000 * MS, 15_000 * MS, pre_sec=3, post_sec=1)
    assert (trigger.clip_start_sec, trigger.clip_end_sec, trigger.clip_duration_sec) == (7.0, 16.0, 9.0)
