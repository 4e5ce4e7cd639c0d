"""From bytes to arrays: the form of every pixel format, and pictures that come beside a message."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Callable, Tuple

import numpy as np

from .context import RuntimeMissing
from .protocol import FrameRef, ProtocolError

#: Pixels across and down at most, as the frame pool has it.
MAX_SIDE = 16_384


@lru_cache(maxsize=256)
def form(format: str, width: int, height: int, stride: int) -> Tuple[Tuple[int, ...], int]:
    """Shape of the array, and its bytes. Raises :class:`ProtocolError` for what is no packed
    picture."""
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise ProtocolError("body", f"a picture of {width}×{height}: both sides must be 1 to {MAX_SIDE}")
    half_width, half_height = (width + 1) // 2, (height + 1) // 2
    row, shape, size = {
        "bgr": (width * 3, (height, width, 3), width * height * 3),
        "rgb": (width * 3, (height, width, 3), width * height * 3),
        "grey": (width, (height, width), width * height),
        "yuyv": (half_width * 4, (height, half_width * 2, 2), half_width * 4 * height),
        "uyvy": (half_width * 4, (height, half_width * 2, 2), half_width * 4 * height),
        "nv21": (width, None, width * height + 2 * half_width * half_height),
        "nv12": (width, None, width * height + 2 * half_width * half_height),
        "i420": (width, None, width * height + 2 * half_width * half_height),
    }[format]
    if stride != row:
        raise ProtocolError("body", f"rows of {stride} bytes where a packed {format} picture has {row}")
    if shape is None:
        even = width % 2 == 0 and height % 2 == 0
        shape = (height * 3 // 2, width) if even else (size,)
    return shape, size


def raw(frame: FrameRef, data: Any) -> np.ndarray:
    """The picture in ``data``, any read-only buffer, without a copy."""
    shape, size = form(frame.format, frame.width, frame.height, frame.stride)
    if len(data) != size:
        raise ProtocolError(
            "body", f"{len(data)} bytes of pixels; a {frame.width}×{frame.height} "
            f"{frame.format} picture has {size}"
        )  # fmt: skip
    array = np.frombuffer(data, np.uint8).reshape(shape)
    array.flags.writeable = False
    return array


def jpeg(frame: FrameRef, data: Any) -> np.ndarray:
    """The picture in a JPEG. Raises :class:`RuntimeMissing` where nothing can decode it."""
    shape, _ = form(frame.format, frame.width, frame.height, frame.stride)
    if frame.format not in ("bgr", "rgb", "grey"):
        raise ProtocolError("body", f"a JPEG can't be decoded to {frame.format}")
    array = decoder()(data, frame.format)
    if array is None or array.shape != shape:
        found = "no picture" if array is None else f"{array.shape[1]}×{array.shape[0]}"
        raise ProtocolError("body", f"a JPEG of {frame.width}×{frame.height} was told of; {found} came")
    array.flags.writeable = False
    return array


@lru_cache(maxsize=1)
def decoder() -> Callable[[Any, str], Any]:
    """What decodes a JPEG here: OpenCV, else Pillow."""
    try:
        import cv2
    except ImportError:
        pass
    else:
        return lambda data, format: _with_cv2(cv2, data, format)
    try:
        from PIL import Image
    except ImportError:
        raise RuntimeMissing(
            "pictures come as JPEG and this venv can't decode them: install opencv-python-headless "
            "or pillow there, or set the extractor's transport to shared memory"
        ) from None
    return lambda data, format: _with_pillow(Image, data, format)


def _with_cv2(cv2: Any, data: Any, format: str) -> Any:
    grey = format == "grey"
    how = cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR
    # As it was encoded: a frame has no EXIF to turn it by.
    array = cv2.imdecode(np.frombuffer(data, np.uint8), how | cv2.IMREAD_IGNORE_ORIENTATION)
    if array is not None and format == "rgb":
        return np.ascontiguousarray(array[..., ::-1])
    return array


def _with_pillow(image: Any, data: Any, format: str) -> Any:
    import io

    try:
        with image.open(io.BytesIO(data)) as opened:
            array = np.array(opened.convert("L" if format == "grey" else "RGB"))
    except OSError:
        return None
    return np.ascontiguousarray(array[..., ::-1]) if format == "bgr" else array
