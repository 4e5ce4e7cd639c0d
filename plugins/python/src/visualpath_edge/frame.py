"""One frame as an extractor sees it."""

from __future__ import annotations

from typing import Optional, Tuple

import numpy as np

from .protocol import Color


class Frame:
    """A picture at one instant.

    ``data`` is a read-only array of bytes that lies in memory shared with the parent: nothing was
    copied, and after ``extract`` returns the same memory is filled with another frame. Its form:

    ==================  ==========================================================================
    format              ``data``
    ==================  ==========================================================================
    ``bgr``, ``rgb``    height × width × 3
    ``grey``            height × width
    ``yuyv``, ``uyvy``  height × width × 2 (an odd width is rounded up)
    ``nv12``, ``nv21``  height · 3/2 × width, planes below each other, as OpenCV's ``cvtColor``
    and ``i420``        takes them; with an odd side one row of all bytes
    ==================  ==========================================================================

    ``roi`` is the rectangle that the picture covers, in units of the whole frame (0–1), which is
    ``frame_width`` × ``frame_height`` pixels; that of a letterbox reaches beyond 0–1.
    """

    __slots__ = (
        "data", "frame_id", "t_src_ns", "width", "height", "format",
        "frame_width", "frame_height", "roi", "epoch", "color", "__weakref__",
    )  # fmt: skip

    def __init__(
        self,
        data: np.ndarray,
        frame_id: int,
        t_src_ns: int,
        width: int,
        height: int,
        format: str = "bgr",
        frame_width: Optional[int] = None,
        frame_height: Optional[int] = None,
        roi: Tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0),
        epoch: int = 0,
        color: Optional[Color] = None,
    ):
        #: Pixels, read-only.
        self.data = data
        #: Dense: +1 per captured picture of the source.
        self.frame_id = frame_id
        #: The source's monotonic time, nanoseconds.
        self.t_src_ns = t_src_ns
        #: Pixels of ``data`` across.
        self.width = width
        #: Pixels of ``data`` down.
        self.height = height
        self.format = format
        self.frame_width = width if frame_width is None else frame_width
        self.frame_height = height if frame_height is None else frame_height
        self.roi = roi
        #: Counts the source's discontinuities.
        self.epoch = epoch
        #: Meaning of YUV samples; none: BT.601, limited range.
        self.color = color

    @classmethod
    def from_array(cls, data: np.ndarray, frame_id: int = 0, t_src_ns: int = 0) -> "Frame":
        """A whole frame of a height × width (× 3) array, for tests."""
        height, width = data.shape[:2]
        return cls(data, frame_id, t_src_ns, width, height, "grey" if data.ndim == 2 else "bgr")

    @property
    def t_ns(self) -> int:
        """The same as ``t_src_ns``."""
        return self.t_src_ns

    def to_frame(self, x: float, y: float) -> Tuple[float, float]:
        """From pixels of ``data`` to 0–1 of the whole frame, the unit of ``bbox``."""
        left, top, right, bottom = self.roi
        return (
            left + x / self.width * (right - left),
            top + y / self.height * (bottom - top),
        )

    def __repr__(self) -> str:
        return (
            f"Frame(frame_id={self.frame_id}, t_src_ns={self.t_src_ns}, "
            f"{self.width}x{self.height} {self.format})"
        )
