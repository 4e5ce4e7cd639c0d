"""What an extractor may say, and how it is told."""

import json
import math

import numpy as np
import pytest

from visualpath_edge import answers, mapping, plain, protocol
from visualpath_edge.observation import Observation


def told(parent, number, picture, **more):
    return parent.extract(parent.pool1.put(0, picture, frame_id=number), **more)


def test_numpys_numbers_and_arrays_are_accepted_everywhere(child, picture):
    (seen,) = told(child("Numbers"), 1, picture).items
    assert seen.signals == {
        "f32": 0.5, "f64": 1.25, "i": -3.0, "u8": 200.0, "b": 1.0, "zero_d": 2.5, "one": 4.0,
        "vector_0": 1.0, "vector_1": 2.0, "vector_2": 3.0, "py": 7.0,
    }  # fmt: skip
    assert seen.data == {"a": [[0, 1, 2], [3, 4, 5]], "n": 0.5, "t": [1, 2], "s": [3]}
    assert seen.metadata == {"k": [True, False], "when": 5}
    assert seen.confidence == 0.25


@pytest.mark.parametrize(
    "number, error",
    [
        (2, "signal 'score' is nan: numbers must be finite"),
        (3, "signal 'score' is inf: numbers must be finite"),
        (4, "signal 'score' is 'high': expected a number"),
        (5, "signal 'score' is None: expected a number"),
        (6, "data.faces[1].score is nan: numbers must be finite"),
        (7, "data: a number that no float holds"),
        (8, "a lone surrogate, which no UTF-8 can say"),
        (9, "confidence is nan: numbers must be finite"),
        (10, "observation 1: a signal's name of 300 bytes; at most 256"),
        (11, "257 signals; at most 256 are allowed: put vectors into data"),
        (12, "t_ns is 1.5: expected nanoseconds as an integer"),
        (15, "observation 1: expected an Observation, got NoneType"),
        (16, "signal 'big' is no number: int too large to convert to float"),
        (17, "signal 'v'[1] is inf: numbers must be finite"),
    ],
)
def test_what_can_not_be_said_is_an_error_that_names_it(child, picture, number, error):
    parent = child("Numbers")
    report = told(parent, number, picture)
    assert (report.kind, report.error, report.traceback) == ("plugin", error, None)
    assert told(parent, 14, picture).items[2].signals == {"i": 2.0}


def test_objects_are_told_as_the_platform_knows_them(child, picture):
    (seen,) = told(child("Numbers"), 13, picture).items
    assert seen.data == {"objects": [{"label": "face", "score": 1.0, "bbox": [0.0] * 4}]}


def test_the_first_mapper_that_takes_an_observation_wins(child, picture):
    parent = child("Maps")
    data = [told(parent, number, picture).items[0].data for number in range(1, 6)]
    assert data == [
        {"special": 5},
        {"message": "FACE|2|2"},
        {"box": [1, 2], "score": 0.5},
        {"faces": [{"box": [1, 2], "score": 0.5}], "ids": {"7": "a"}},
        {"data": [1, 2, 3]},
    ]
    report = told(parent, 6, picture)
    assert report.error == "data: object is not JSON"


def test_a_mappers_own_form_is_read_by_it_again(child, picture):
    text = protocol.Observation(
        extractor="text", frame_id=9, signals={}, data={"message": "FACE|41|3.0"}, metadata={}
    )
    (seen,) = told(child("Maps"), 7, picture, deps=[text]).items
    assert seen.data == {"read": [41, 3.0]}


# -- by itself ---------------------------------------------------------------------------------------


def one(observation, name="mine"):
    data = answers.Answers(name).observations(3, 7, [observation], 1, 2)
    (item,) = protocol.decode_from_child(data).message.items
    return item


@pytest.mark.parametrize(
    "data",
    [None, {}, [], [1], "text", 5, 2.5, True, {"data": {"a": 1}}, {"a": [None]}, {"data": [1], "b": 2}],
)
def test_data_comes_back_as_it_was(data):
    back = answers.Readings().observation(one(Observation(data=data)), 5)
    # No data and empty data are the same.
    assert back.data == ({} if data is None else data)
    assert (back.source, back.frame_id, back.t_ns) == ("mine", 7, 5)


def test_an_answer_is_that_of_the_protocols_own_writer():
    seen = Observation(
        source="x", t_ns=np.int64(5), signals={"é\n\"": np.float32(0.1), "": -0.0, "tiny": 5e-324},
        data={"text": "é \"quoted\" \\ \U0001f600 \n"}, metadata={"k": [1e300]}, confidence=1,
    )  # fmt: skip
    signals = {'é\n"': float(np.float32(0.1)), "": -0.0, "tiny": 5e-324}
    item = protocol.Observation("käse", 7, signals, seen.data, seen.metadata, 5, 1.0)
    wanted = protocol.encode(protocol.Observations([item], protocol.Timing(1, 2)), 3)
    written = answers.Answers("käse").observations(3, 7, [seen], 1, 2)
    assert json.loads(written) == json.loads(wanted)
    assert math.copysign(1, json.loads(written)["items"][0]["signals"][""]) == -1


def test_names_of_signals_are_not_kept_without_end():
    writes = answers.Answers("mine")
    for n in range(3000):
        writes.observations(1, 1, [Observation(signals={f"s{n}": 1.0})], 0, 0)
    assert len(writes._names) <= 1024


def test_depth_and_length_are_bounded():
    with pytest.raises(plain.BadAnswer, match="nested deeper"):
        inside = []
        for _ in range(60):
            inside = [inside]
        one(Observation(data={"a": inside}))
    with pytest.raises(plain.BadAnswer, match="too large"):
        one(Observation(data={"a": [0] * 70_000}))
    circle = {}
    circle["a"] = circle
    with pytest.raises(plain.BadAnswer, match="nested deeper"):
        one(Observation(data=circle))


@pytest.mark.parametrize("number", [10**400, 10**5000, [10**400], {"a": 10**5000}], ids=range(4))
def test_a_number_that_no_float_holds_is_named(number):
    with pytest.raises(plain.BadAnswer, match="data.*a number that no float holds"):
        one(Observation(data={"a": number}))


def test_a_flat_answer_of_many_objects_is_not_deep():
    seen = one(Observation(data={"objects": [{"bbox": [0, 0, 1, 1]} for _ in range(500)]}))
    assert len(seen.data["objects"]) == 500


def test_mappers_are_asked_newest_first_and_json_is_always_there():
    class Says:
        def __init__(self, word):
            self.word = word

        def to_message(self, observation):
            return json.dumps({"data": {"word": self.word}, "signals": {"n": 2}}) if self.word else None

    composite = mapping.CompositeMapper([mapping.DataclassMapper(), mapping.DefaultObservationMapper()])
    seen = Observation(source="a", frame_id=1, t_ns=2, signals={"n": 1.0}, data={"k": (1,)})
    assert json.loads(composite.to_message(seen))["data"] == {"k": [1]}
    back = composite.from_message(composite.to_message(seen))
    assert (back.source, back.signals, back.data) == ("a", {"n": 1.0}, {"k": [1]})
    for word in ("first", "second", None):
        composite.add_mapper(Says(word))
    data = answers.Answers("mine", [composite]).observations(1, 1, [seen], 0, 0)
    (item,) = protocol.decode_from_child(data).message.items
    # A whole document: its signals count too.
    assert (item.data, item.signals) == ({"word": "second"}, {"n": 2.0})
