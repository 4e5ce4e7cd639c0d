"""The golden vectors of protocol 1, read and written."""

import json
import random
from pathlib import Path

import pytest

from visualpath_edge import protocol
from visualpath_edge.protocol import ProtocolError, decode_from_child, decode_from_parent, encode

VECTORS = Path(__file__).resolve().parents[2] / "protocol" / "vectors" / "1"
INDEX = json.loads((VECTORS / "index.json").read_bytes())
DECODE = {"child": decode_from_child, "parent": decode_from_parent}
TABLE = {"child": protocol.FROM_CHILD, "parent": protocol.FROM_PARENT}


def golden(vector):
    data = (VECTORS / vector["json"]).read_bytes()
    assert data.endswith(b"\n")
    return data[:-1]


@pytest.mark.parametrize("vector", INDEX["vectors"], ids=lambda v: v["name"])
def test_a_golden_message_is_read_and_written_the_same(vector):
    data = golden(vector)
    envelope = DECODE[vector["from"]](data)
    assert envelope.id == vector["id"]
    assert type(envelope.message) is TABLE[vector["from"]][vector["type"]]
    written = encode(envelope.message, envelope.id)
    # The same JSON; a float's digits and the fields' order are each language's own.
    assert json.loads(written) == json.loads(data)
    assert DECODE[vector["from"]](written) == envelope


@pytest.mark.parametrize("vector", INDEX["refused"], ids=lambda v: v["name"])
def test_what_must_be_refused_is(vector):
    with pytest.raises(ProtocolError) as told:
        DECODE[vector["from"]](golden(vector))
    assert told.value.kind == vector["error"] or (
        # Which of the two sees a number that no float holds is each parser's own.
        {told.value.kind, vector["error"]} <= {"envelope", "body"}
    )
    decode_from_parent(encode(told.value.answer(), told.value.id or 0))


def test_every_type_has_a_vector():
    for side, table in TABLE.items():
        assert {v["type"] for v in INDEX["vectors"] if v["from"] == side} == set(table)


EXTRACT = json.loads(golden(next(v for v in INDEX["vectors"] if v["name"] == "parent_extract_full")))


@pytest.mark.parametrize(
    "change",
    [
        {}, {"deps": [EXTRACT["deps"][0]]}, {"id": -1}, {"id": 2**64}, {"id": True}, {"v": True}, {"v": 2},
        {"deadline_ms": None}, {"deadline_ms": 2**32}, {"deadline_ms": 1.0}, {"deps": None},
        {"frame.slot": -1}, {"frame.slot": 2**32}, {"frame.slot": True}, {"frame.slot": 1.0},
        {"frame.generation": 2**64}, {"frame.offset": -1}, {"frame.t_ns": -(2**63)}, {"frame.t_ns": 2**63},
        {"frame.roi": [0, 0, 1, 1]}, {"frame.roi": [0.0, 0.0, 1.0]}, {"frame.roi": None},
        {"frame.roi": [0.0, 0.0, 1.0, "1e999"]}, {"frame.format": "cmyk"}, {"frame.format": []},
        {"frame.pixels": None}, {"frame.pixels": "jpeg"}, {"frame.pixels": "disk"}, {"frame.pixels": {}},
        {"frame.view": None}, {"frame.view": -1}, {"frame.epoch": "2"}, {"frame.frame_format": None},
        {"frame.frame_format": "x"}, {"frame.color": None}, {"frame.color": {"matrix": "bt601"}},
        {"frame.color": {"matrix": "bt601", "range": "loud"}}, {"frame.color": []}, {"frame.new": {"a": [1]}},
        {"frame": None}, {"type": "extracts"}, {"type": None}, {"new": [[[]]]},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("space", ["", " "])
def test_the_quick_way_to_read_an_extract_is_the_other_way(change, space, monkeypatch):
    value = json.loads(json.dumps(EXTRACT))
    value["deps"] = []
    for path, to in change.items():
        *outer, name = path.split(".")
        (value[outer[0]] if outer else value)[name] = to
    data = (space + json.dumps(value).replace('"1e999"', "1e999")).encode()

    def told():
        try:
            return decode_from_parent(data)
        except ProtocolError as error:
            return error.kind, error.id, str(error)

    quick = told()
    read, took = protocol._quick_extract, []
    monkeypatch.setattr(protocol, "_quick_extract", lambda v: took.append(read(v) is not None))
    assert told() == quick
    if not change and not space:
        assert took == [True], "the usual message goes the quick way"


def test_unknown_fields_are_passed_over_and_absent_ones_are_none():
    envelope = decode_from_child(b'{"id":7,"new":[{}],"type":"error","v":1,"error":"e"}')
    assert envelope == (7, protocol.ErrorReport(error="e"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1", None, True, 10**400])
def test_a_signal_that_is_no_finite_number_is_never_written(value):
    observation = protocol.Observation(
        extractor="a", frame_id=1, signals={"score": value}, data={}, metadata={}
    )
    message = protocol.Observations(items=[observation], timing=protocol.Timing(0, 0))
    with pytest.raises(ProtocolError, match=r"items: \[0\]: signals: score"):
        encode(message, 1)


@pytest.mark.parametrize("data", [{"a": float("nan")}, {1: 2}, {"a": {1}}, {"a": 10**400}, {"a": "\ud800"}])
def test_data_that_is_not_json_is_never_written(data):
    with pytest.raises(ProtocolError):
        encode(protocol.TraceRecord(record=data), 0)


def test_bounds_hold_both_ways():
    with pytest.raises(ProtocolError, match="bytes"):
        encode(protocol.Pong(extractor="é" * 129), 1)
    with pytest.raises(ProtocolError) as told:
        decode_from_child(b" " * (protocol.MAX_MESSAGE_BYTES + 1))
    assert told.value.kind == "too_long"
    with pytest.raises(ProtocolError) as told:
        decode_from_child(b'{"v":1,"type":"trace","record":{"a":' + b"[" * 100_000)
    assert told.value.kind == "complex"
    with pytest.raises(ProtocolError) as told:
        decode_from_child(b'{"v":1,"type":"trace","record":{"a":[' + b"0," * 70_000 + b"0]}}")
    assert told.value.kind == "complex"


def test_the_shape_of_a_text_is_that_of_what_it_says():
    def counted(value):
        if not isinstance(value, (list, dict)):
            return 0, 0
        inner = [counted(v) for v in (value.values() if isinstance(value, dict) else value)]
        parts = 1 + max(len(value) - 1, 0) + sum(p for p, _ in inner)
        return parts, 1 + max((d for _, d in inner), default=0)

    texts = [
        "{}",
        '{"a":[]}',
        "[{}]",
        '{"a":[],"b":{"c":[1,2,[3]]}}',
        '{"a,[{":"\\"],,[\\\\","b":1}',
        '{"a":"\\\\"}',
    ]
    for text in texts + [golden(v).decode() for v in INDEX["vectors"]]:
        assert protocol.shape(text.encode()) == counted(json.loads(text)), text


def test_damaged_messages_are_told():
    rng = random.Random(1)
    seeds = [golden(v) for v in INDEX["vectors"]]
    for _ in range(4000):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(data))
            data[at : at + rng.randrange(3)] = rng.choice(
                [b"", b"\xff", b"null", b"-1", b"1e999", b"{", b"[", b'"', b"true", b"99999999999999999999"]
            )
            if not data:
                break
        for decode in DECODE.values():
            try:
                envelope = decode(bytes(data))
            except ProtocolError as error:
                assert 0 < len(str(error)) < 1000
            else:
                assert decode(encode(envelope.message, envelope.id)) == envelope
