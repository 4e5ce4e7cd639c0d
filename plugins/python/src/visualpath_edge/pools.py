"""Frame pools: shared memory of the parent, seen read-only.

Each pool's descriptor comes over the socket inherited as descriptor 3, before the message that
names the pool. That socket's end says that the parent is gone.

Nothing is unmapped by hand. An array refers to its mapping, so the last of them unmaps it: a frame
that a plugin kept stays readable when its pool has long been replaced.
"""

from __future__ import annotations

import array
import mmap
import os
import socket
import struct
from collections import OrderedDict
from typing import List, Optional, Tuple

import numpy as np

from .pixels import form
from .protocol import FrameRef, Pool, ProtocolError

#: Pools that are kept mapped.
NEWEST = 2
#: Descriptors that may have come without the message that names them.
MAX_WAITING = 16

_HEADER_BYTES = 128
_HEADER = struct.Struct("=4sIQ")
_MAGIC = b"VPSH"
_VERSION = 1


class Pools:
    """Pools by id; owns the socket they come by."""

    def __init__(self, sock: socket.socket):
        self._socket = sock
        self._waiting: "OrderedDict[int, int]" = OrderedDict()
        self._mapped: "OrderedDict[int, Mapped]" = OrderedDict()
        self._gone = False

    def fileno(self) -> int:
        """Readable when descriptors have come, or at the end."""
        return self._socket.fileno()

    def take(self) -> bool:
        """Takes what has come. False: the parent is gone."""
        while not self._gone:
            try:
                data, descriptors, flags = _receive(self._socket)
            except (BlockingIOError, InterruptedError):
                return True
            except OSError:
                self._gone = True
                break
            if not data and not descriptors:
                self._gone = True
            elif len(data) != 4 or len(descriptors) != 1 or flags & socket.MSG_CTRUNC:
                # Nothing that protocol 1 knows; the pool it was meant for will be missed by name.
                for descriptor in descriptors:
                    os.close(descriptor)
            else:
                self._keep(int.from_bytes(data, "little"), descriptors[0])
        return False

    def _keep(self, pool_id: int, descriptor: int) -> None:
        older = self._waiting.pop(pool_id, None)
        if older is not None:
            os.close(older)
        self._waiting[pool_id] = descriptor
        while len(self._waiting) > MAX_WAITING:
            os.close(self._waiting.popitem(last=False)[1])

    def open(self, pool: Pool) -> None:
        """Maps a pool that was named; the oldest beyond two is let go."""
        self.take()
        descriptor = self._waiting.pop(pool.pool_id, None)
        if descriptor is None:
            raise ProtocolError("body", f"pool {pool.pool_id}: no descriptor came for it")
        try:
            mapped = Mapped(pool, descriptor)
        finally:
            os.close(descriptor)
        self._mapped.pop(pool.pool_id, None)
        self._mapped[pool.pool_id] = mapped
        while len(self._mapped) > NEWEST:
            self._mapped.popitem(last=False)

    def picture(self, frame: FrameRef) -> np.ndarray:
        """The picture that ``frame`` names, in shared memory."""
        mapped = self._mapped.get(frame.pool_id)
        if mapped is None:
            raise ProtocolError("body", f"frame.pool_id: there is no pool {frame.pool_id}")
        return mapped.picture(frame)


def _receive(sock: socket.socket) -> Tuple[bytes, List[int], int]:
    """One datagram and its descriptors; never waits. (`socket.recv_fds` drops its flags.)"""
    numbers = array.array("i")
    data, beside, flags, _ = sock.recvmsg(
        16, socket.CMSG_LEN(4 * numbers.itemsize), socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
    )
    for level, kind, payload in beside:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers.frombytes(payload[: len(payload) - len(payload) % numbers.itemsize])
    return data, list(numbers), flags


class Mapped:
    """One pool's memory."""

    def __init__(self, pool: Pool, descriptor: int):
        try:
            self._memory = mmap.mmap(descriptor, 0, mmap.MAP_SHARED, mmap.PROT_READ)
        except (OSError, ValueError) as error:
            raise ProtocolError("body", f"pool {pool.pool_id} can't be mapped: {error}") from None
        self._bytes = len(self._memory)
        self._slots = pool.slots
        least = pool.slots * (_HEADER_BYTES + pool.slot_bytes)
        if self._bytes < least:
            raise ProtocolError(
                "body", f"pool {pool.pool_id} has {self._bytes} bytes; {pool.slots} slots of "
                f"{pool.slot_bytes} need {least}"
            )  # fmt: skip

    def picture(self, frame: FrameRef) -> np.ndarray:
        """Read-only: the mapping is, and numpy sees that."""
        shape, size = form(frame.format, frame.width, frame.height, frame.stride)
        if frame.slot >= self._slots:
            raise ProtocolError("body", f"frame.slot: {frame.slot} of {self._slots}")
        if frame.offset + size > self._bytes:
            raise ProtocolError("body", f"frame.offset: {size} bytes at {frame.offset} of {self._bytes}")
        self._check_generation(frame)
        return np.ndarray(shape, np.uint8, self._memory, frame.offset)

    def _check_generation(self, frame: FrameRef) -> None:
        header = _HEADER.unpack_from(self._memory, frame.slot * _HEADER_BYTES)
        if header != (_MAGIC, _VERSION, frame.generation):
            magic, version, generation = header
            raise ProtocolError(
                "body", f"frame.generation: slot {frame.slot} holds generation {generation} "
                f"(header {magic!r}, version {version}), not {frame.generation}"
            )  # fmt: skip


def inherited(descriptor: int = 3) -> Optional[Pools]:
    """The pools that come over an inherited socket; none if it is no such socket."""
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError:
        return None
    if sock.family != socket.AF_UNIX:
        sock.detach()
        return None
    os.set_inheritable(descriptor, False)
    return Pools(sock)
