"""The link to the parent: a DEALER, the socket of the pools beside it, and a bell for other threads.

Only the main thread touches the DEALER. What other threads have to say waits in a short queue, and
a byte through a pipe wakes the main thread for it.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import Any, Deque, List, Optional

import zmq

from .pools import Pools

#: Milliseconds to get rid of the last words after the parent was told everything.
LINGER_MS = 200
#: Messages of other threads that wait to be sent.
MAX_WAITING = 1000


class Link:
    """Messages in, messages out."""

    def __init__(self, endpoint: str, token: str, pools: Pools):
        self._pools = pools
        self._context = zmq.Context(io_threads=1)
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.ROUTING_ID, token.encode("ascii"))
        self._socket.setsockopt(zmq.LINGER, LINGER_MS)
        self._socket.connect(endpoint)
        self._main = threading.get_ident()
        self._waiting: Deque[bytes] = deque(maxlen=MAX_WAITING)
        self._bell, self._ring = os.pipe()
        os.set_blocking(self._bell, False)
        os.set_blocking(self._ring, False)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(pools.fileno(), zmq.POLLIN)
        self._poller.register(self._bell, zmq.POLLIN)

    def receive(self) -> Optional[List[Any]]:
        """The parts of the next message; none when the parent is gone. Further parts are not
        copied out of the message."""
        while True:
            for ready, _ in self._poller.poll():
                if ready is self._socket:
                    return self._read()
                if ready == self._bell:
                    self._answer_bell()
                elif not self._pools.take():
                    return None

    def _read(self) -> List[Any]:
        parts: List[Any] = [self._socket.recv()]
        while self._socket.getsockopt(zmq.RCVMORE):
            # A hostile number of parts is counted, not kept.
            part = self._socket.recv(copy=False)
            if len(parts) < 3:
                parts.append(part.buffer)
        return parts

    def send(self, data: bytes) -> bool:
        """Sends an answer. False: the parent is gone and nobody will read it."""
        while True:
            try:
                self._socket.send(data, zmq.DONTWAIT)
                return True
            except zmq.Again:
                # The parent reads nothing. Wait until it does, or is gone.
                out = zmq.Poller()
                out.register(self._socket, zmq.POLLOUT)
                out.register(self._pools.fileno(), zmq.POLLIN)
                out.poll()
                if not self._pools.take():
                    return False

    def offer(self, data: bytes) -> None:
        """Sends what may be lost (a log line), from any thread."""
        if threading.get_ident() == self._main:
            try:
                self._socket.send(data, zmq.DONTWAIT)
            except zmq.ZMQError:
                pass
            return
        self._waiting.append(data)
        try:
            os.write(self._ring, b"!")
        except OSError:
            # The pipe is full: the main thread will wake anyway.
            pass

    def flush(self) -> None:
        """Sends what other threads left."""
        while self._waiting:
            self.offer(self._waiting.popleft())

    def _answer_bell(self) -> None:
        try:
            os.read(self._bell, 4096)
        except BlockingIOError:
            pass
        self.flush()

    def close(self, gone: bool) -> None:
        """Ends it; what was said is still sent unless the parent is gone."""
        if not gone:
            self.flush()
        self._socket.close(linger=0 if gone else LINGER_MS)
        self._context.term()
