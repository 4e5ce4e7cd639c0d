"""Frames: what an extractor is given, from where, and what becomes of it afterwards."""

import importlib.util
import io

import numpy as np
import pytest
from parent import frame_ref

from visualpath_edge import protocol


def test_an_extractor_that_takes_an_array_gets_the_pixels_of_the_slot(child, picture):
    parent = child("ArrayShape")
    for slot in range(4):
        shown = picture + np.uint8(slot)
        (seen,) = parent.extract(parent.pool1.put(slot, shown, frame_id=slot)).items
        assert seen.signals == {"first": slot, "mean": shown.mean(), "seen": slot + 1.0}
        assert seen.data == {"shape": [48, 64, 3], "writeable": False}
        assert (seen.extractor, seen.frame_id, seen.t_ns) == ("mine", slot, None)
    assert parent.ask(protocol.Reset()) == protocol.Ok()
    assert parent.extract(parent.pool1.put(0, picture)).items[0].signals["seen"] == 1.0


def test_an_extractor_that_takes_a_frame_knows_where_it_lies(child, picture):
    parent = child("FrameShape")
    assert parent.ready == protocol.Ready(
        signals=["mean"],
        input=protocol.Input("rgb", 32, 32, "letterbox"),
        models=[protocol.Model("none", "1", "00", "numpy 1")],
    )
    said = dict(
        format="rgb", frame_width=640, frame_height=480, roi=[0.0, -0.25, 1.0, 1.25], epoch=2, view=0
    )
    answer = parent.extract(parent.pool1.put(1, picture, **said))
    (seen,) = answer.items
    assert seen.data == {
        "size": [64, 48], "frame": [640, 480], "format": "rgb", "roi": [0.0, -0.25, 1.0, 1.25],
        "corner": [1.0, 1.25], "epoch": 2,
    }  # fmt: skip
    assert (seen.t_ns, seen.confidence, seen.metadata) == (280_000_000, 0.5, {"timing": {"detect": 1.5}})
    assert 0 <= answer.timing.extract_ns <= answer.timing.total_ns
    assert parent.extract(parent.pool1.put(1, picture, frame_id=404)).items == []


def test_an_extractor_that_depends_on_others_gets_their_observations(child, picture):
    parent = child("WithDeps")
    face = protocol.Observation(
        extractor="face", frame_id=7, signals={"count": 2.0}, metadata={},
        data={"objects": [{"label": "face"}]},
    )  # fmt: skip
    frame = parent.pool1.put(0, picture)
    (seen,) = parent.extract(frame, deps=[face, face]).items
    assert seen.signals == {"from": 2.0, "several": 2.0}
    assert seen.data == {"of": "face", "t_ns": 280_000_000, "label": "face"}
    assert parent.extract(frame).items == []


def test_extract_may_take_what_it_depends_on_too(child, picture):
    parent = child("ExtractWithDeps")
    assert parent.extract(parent.pool1.put(0, picture)).items[0].signals == {"deps": 0.0, "width": 64.0}


def test_the_memory_can_not_be_written_by_any_means(child, picture, site):
    code = """
import ctypes, mmap
class Writes:
    def __init__(self): self.tried = []
    def extract(self, frame):
        tries = {
            1: lambda: frame.data.__setitem__((0, 0, 0), 1),
            2: lambda: frame.data.setflags(write=True),
            3: lambda: frame.data.base.__setitem__(0, 1),
            4: lambda: frame.data.sort(axis=0),
        }
        tries[frame.frame_id]()
"""
    site("writes", "1", extractors={"writes": "writes:Writes"}, modules={"writes.py": code})
    from parent import Parent

    with Parent("--plugin", "writes", path=[site.path]) as parent:
        pool = parent.pool()
        parent.start(pools=[pool])
        for number in (1, 2, 3, 4):
            report = parent.extract(pool.put(0, picture, frame_id=number))
            assert isinstance(report, protocol.ErrorReport), number
            assert (
                "read-only" in report.error or "writ" in report.error.lower() or "modify" in report.error
            ), report
        assert " r--s " in parent.maps()[0]
        start = pool.first
        assert pool.memory[start : start + picture.nbytes] == picture.tobytes()


@pytest.mark.parametrize(
    "format, width, height, stride, shape",
    [
        ("bgr", 5, 3, 15, [3, 5, 3]),
        ("rgb", 4, 2, 12, [2, 4, 3]),
        ("grey", 5, 3, 5, [3, 5]),
        ("yuyv", 4, 2, 8, [2, 4, 2]),
        ("yuyv", 5, 2, 12, [2, 6, 2]),
        ("uyvy", 4, 2, 8, [2, 4, 2]),
        ("nv21", 4, 2, 4, [3, 4]),
        ("nv12", 4, 2, 4, [3, 4]),
        ("i420", 4, 2, 4, [3, 4]),
        ("nv12", 5, 3, 5, [15 + 2 * 3 * 2]),
        ("i420", 5, 3, 5, [15 + 2 * 3 * 2]),
    ],
)
@pytest.mark.parametrize("pixels", ["slot", "raw"])
def test_every_format_has_its_array(child, format, width, height, stride, shape, pixels):
    parent = child("AnyShape")
    data = (np.arange(np.prod(shape)) % 251 + 1).astype(np.uint8)
    said = dict(format=format, width=width, height=height, stride=stride)
    if pixels == "slot":
        # The FrameRef's size is the format's, not that of the bytes put there.
        answer = parent.extract(parent.pool1.put(2, data.reshape(1, -1), **said))
    else:
        answer = parent.extract(frame_ref(data.reshape(1, -1), pixels="raw", **said), data.tobytes())
    assert answer.items[0].data == {"shape": shape, "bytes": data.tolist(), "writeable": False}


@pytest.mark.parametrize(
    "wrong, error",
    [
        ({"pool_id": 9}, "frame.pool_id: there is no pool 9"),
        ({"slot": 4}, "frame.slot: 4 of 4"),
        ({"offset": 1 << 40}, "frame.offset"),
        ({"offset": (1 << 64) - 1}, "frame.offset"),
        ({"generation": 99}, "frame.generation: slot 0 holds generation 1"),
        ({"stride": 64 * 3 + 1}, "rows of 193 bytes where a packed bgr picture has 192"),
        ({"width": 0, "stride": 0}, "a picture of 0"),
        ({"width": 20_000, "stride": 60_000}, "a picture of 20000"),
        ({"pixels": "raw"}, "extract: 0 parts beside the message"),
    ],
)
def test_a_frame_that_is_not_there_is_an_error_of_the_protocol(child, picture, wrong, error):
    parent = child("ArrayShape")
    frame = parent.pool1.put(0, picture)
    for name, value in wrong.items():
        setattr(frame, name, value)
    report = parent.extract(frame)
    assert (report.kind, report.error[: len(error)]) == ("protocol", error)
    assert parent.extract(parent.pool1.put(0, picture)).items


# -- pools -------------------------------------------------------------------------------------------


def test_a_new_pool_is_used_at_once_and_only_the_two_newest_stay(child, picture):
    parent = child("ArrayShape")
    pools = [parent.pool1]
    for pool_id in (2, 3):
        pools.append(parent.pool(pool_id, slots=2))
        parent.pass_pool(pools[-1])
        assert parent.ask(pools[-1].told) == protocol.Ok()
        for older in pools[-2:]:
            assert parent.extract(older.put(0, picture)).items
    assert sorted(line.split()[-2].split(":")[-1] for line in parent.maps()) == ["pool2", "pool3"]
    assert parent.extract(pools[0].put(0, picture)).kind == "protocol"


def test_a_pool_of_another_size_and_format_is_used_while_the_child_stays_up(child):
    parent = child("ArrayShape")
    large = np.full((720, 1280), 3, np.uint8)
    pool = parent.pool(2, 3, 1280, 720, format="grey", slot_bytes=1280 * 720)
    parent.pass_pool(pool)
    assert parent.ask(pool.told) == protocol.Ok()
    assert "IndexError" in parent.extract(pool.put(2, large)).error


def test_a_pool_whose_descriptor_never_came_is_an_error(child, picture):
    parent = child("ArrayShape")
    pool = parent.pool(5)
    report = parent.ask(pool.told)
    assert (report.kind, report.error) == ("protocol", "pool 5: no descriptor came for it")
    assert parent.extract(parent.pool1.put(0, picture)).items


def test_a_pool_smaller_than_it_says_is_refused(child):
    parent = child("ArrayShape")
    pool = parent.pool(5)
    pool.told.slots = 1000
    parent.pass_pool(pool)
    report = parent.ask(pool.told)
    assert report.kind == "protocol" and "need" in report.error


def test_datagrams_that_are_no_pools_are_passed_over(child, picture):
    parent = child("ArrayShape")
    for _ in range(3):
        parent.pool_socket.send(b"xx")
        parent.pool_socket.send(b"\x05\0\0\0")
    pool = parent.pool(2)
    # Named once, sent twice; and more that nobody names.
    for _ in range(2):
        parent.pass_pool(pool)
    for pool_id in range(100, 140):
        pool.told.pool_id = pool_id
        parent.pass_pool(pool)
    pool.told.pool_id = 2
    parent.pass_pool(pool)
    assert parent.ask(pool.told) == protocol.Ok()
    assert parent.extract(pool.put(0, picture)).items
    import os

    links = os.listdir(f"/proc/{parent.process.pid}/fd")
    assert len(links) < 60, "descriptors are closed again"


# -- frames that are kept ----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["array", "slice", "frame", "observation"])
def test_a_kept_frame_is_noticed_once_and_copies_are_given_from_then_on(child, picture, how):
    parent = child("Keeps", config={"how": how})
    for number in range(3):
        answer = parent.extract(parent.pool1.put(0, picture, frame_id=number))
        assert answer.items[0].signals == {"sum": float(picture.sum())}
        assert answer.items[0].data["writeable"] is False
    (log,) = parent.logs
    assert log.level == "warn" and "keeps frames (frame 0" in log.msg
    if how in ("array", "slice"):
        # The slot is filled anew. Copies stay as they were; what was kept first does not.
        answer = parent.extract(parent.pool1.put(0, np.zeros_like(picture), frame_id=100))
        first, *copies = answer.items[0].data["sums"]
        part = picture if how == "array" else picture[10:20, ::2]
        assert first == 0 and copies == [int(part.sum())] * 2


def test_a_frame_that_is_not_kept_is_never_copied(child, picture):
    parent = child("Keeps")
    for number in range(100, 110):
        assert parent.extract(parent.pool1.put(0, picture, frame_id=number)).items
    assert parent.logs == []


def test_a_frame_in_a_circle_of_garbage_is_not_kept(child, picture):
    parent = child("Keeps", config={"how": "circle"})
    for number in range(100, 105):
        parent.extract(parent.pool1.put(0, picture, frame_id=number))
    assert parent.logs == []


def test_an_exception_does_not_keep_a_frame_and_does_not_hide_a_kept_one(child, picture):
    parent = child("Faults")
    for _ in range(3):
        assert parent.extract(parent.pool1.put(0, picture, frame_id=1)).error
    assert parent.logs == []
    parent = child("Keeps")
    assert parent.extract(parent.pool1.put(0, picture, frame_id=66)).error
    assert "keeps frames (frame 66" in parent.logs[0].msg


def test_a_kept_frame_outlives_its_pool(child, picture):
    parent = child("Keeps")
    parent.extract(parent.pool1.put(0, picture, frame_id=1))
    pools = [parent.pool(pool_id) for pool_id in (2, 3, 4)]
    for pool in pools:
        parent.pass_pool(pool)
        assert parent.ask(pool.told) == protocol.Ok()
    assert len(parent.maps()) == 3
    answer = parent.extract(pools[-1].put(0, picture, frame_id=100))
    assert answer.items[0].data["sums"] == [int(picture.sum())]
    assert parent.ask(protocol.Reset()) == protocol.Ok()
    assert len(parent.maps()) == 2


# -- pixels beside the message -----------------------------------------------------------------------


def test_raw_pixels_come_beside_the_message_and_may_be_kept(child, picture):
    parent = child("Keeps")
    for number in range(3):
        shown = picture + np.uint8(number)
        answer = parent.extract(frame_ref(shown, pixels="raw", frame_id=number), shown.tobytes())
        assert answer.items[0].signals == {"sum": float(shown.sum())}
        assert answer.items[0].data["writeable"] is False
    sums = [int((picture + np.uint8(number)).sum()) for number in range(3)]
    assert answer.items[0].data["sums"] == sums
    assert parent.logs == []


def test_pixels_of_another_length_are_an_error_of_the_protocol(child, picture):
    parent = child("ArrayShape")
    frame = frame_ref(picture, pixels="raw")
    for beside in ([b""], [picture.tobytes()[:-1]], [picture.tobytes(), b""], []):
        assert parent.extract(frame, *beside).kind == "protocol"
    assert parent.extract(parent.pool1.put(0, picture), b"pixels").kind == "protocol"
    assert parent.extract(frame, picture.tobytes()).items


HAVE = [name for name in ("cv2", "PIL") if importlib.util.find_spec(name)]


def test_a_jpeg_that_nothing_can_decode_is_an_error_that_says_what_to_install(child, picture):
    blocked = "import sys; sys.modules['cv2'] = sys.modules['PIL'] = None"
    parent = child("BlocksDecoders", env={"BLOCK": blocked})
    report = parent.extract(frame_ref(picture, pixels="jpeg"), b"\xff\xd8")
    assert report.kind == "runtime" and "opencv-python-headless or pillow" in report.error


@pytest.mark.skipif(not HAVE, reason="neither cv2 nor PIL here")
@pytest.mark.parametrize("format", ["bgr", "rgb", "grey"])
@pytest.mark.parametrize("only", HAVE)
def test_a_jpeg_is_decoded_to_the_format_asked_for(child, format, only):
    grey = format == "grey"
    shown = np.zeros((48, 64) if grey else (48, 64, 3), np.uint8)
    shown[:] = 90 if grey else (200, 100, 50)
    if "PIL" in HAVE:
        from PIL import Image

        out = io.BytesIO()
        Image.fromarray(shown if grey else shown[..., ::-1] if format == "bgr" else shown).save(
            out, "JPEG", quality=100
        )
        data = out.getvalue()
    else:
        import cv2

        data = cv2.imencode(".jpg", shown[..., ::-1] if format == "rgb" else shown)[1].tobytes()
    other = {"cv2": "PIL", "PIL": "cv2"}[only]
    parent = child("BlocksDecoders", env={"BLOCK": f"import sys; sys.modules['{other}'] = None"})
    frame = frame_ref(shown, pixels="jpeg", format=format)
    (seen,) = parent.extract(frame, data).items
    wanted = [90] if grey else [200, 100, 50]
    assert seen.data["shape"] == list(shown.shape)
    assert seen.data["mean"] == pytest.approx(wanted, abs=3)
    frame.width = 32
    frame.stride = 32 if grey else 96
    assert parent.extract(frame, data).kind == "protocol"
    assert parent.extract(frame, b"no picture").kind == "protocol"
