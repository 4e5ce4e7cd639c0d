"""Hand-off of a frame to a Python worker and back, beside a bare ZMQ echo of equal message sizes.

    python plugins/python/bench/echo.py [--rounds 5] [--frames 1000] [--paced 60]

Both children are Python processes over the same kind of socket; requests are made before, answers
are not read, so what differs is the worker: decoding, the view of the slot, the call, encoding.
Rounds alternate, the median of their percentiles is given. Target: at most 2.5 times the echo.
"""

import argparse
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tests"), str(HERE.parent / "src")]

import numpy as np  # noqa: E402
import zmq  # noqa: E402
from parent import Parent  # noqa: E402

from visualpath_edge import protocol  # noqa: E402

SIZES = [(640, 480), (1280, 720), (1920, 1080)]
TARGET = 2.5

ECHO = """
import sys, zmq
context = zmq.Context()
socket = context.socket(zmq.DEALER)
socket.setsockopt(zmq.ROUTING_ID, sys.argv[2].encode())
socket.connect(sys.argv[1])
answer = b"x" * int(sys.argv[3])
socket.send(b"hello")
while socket.recv() != b"end":
    socket.send(answer)
"""


class Echo:
    """A child that does nothing else."""

    def __init__(self, answer_bytes):
        self._dir = tempfile.TemporaryDirectory(prefix="vp")
        self._context = zmq.Context()
        self.router = self._context.socket(zmq.ROUTER)
        self.router.setsockopt(zmq.LINGER, 0)
        endpoint = f"ipc://{self._dir.name}/echo"
        self.router.bind(endpoint)
        self.token = secrets.token_hex(16)
        self.process = subprocess.Popen(
            [sys.executable, "-c", ECHO, endpoint, self.token, str(answer_bytes)]
        )
        self.router.recv_multipart()

    def close(self):
        self.router.send_multipart([self.token.encode(), b"end"])
        self.process.wait(10)
        self.router.close(linger=0)
        self._context.term()
        self._dir.cleanup()


def round_trips(peer, request, count, pause):
    """Microseconds of each."""
    parts = [peer.token.encode(), request]
    router, clock = peer.router, time.perf_counter_ns
    times = []
    due = time.perf_counter()
    for _ in range(count):
        if pause:
            due += pause
            time.sleep(max(due - time.perf_counter(), 0))
        began = clock()
        router.send_multipart(parts)
        router.recv_multipart()
        times.append((clock() - began) / 1000)
    return times


def percentiles(times):
    return np.percentile(times, 50), np.percentile(times, 99)


def measure(width, height, rounds, frames, paced):
    parent = Parent("--entry-point", "measured:Measured", path=[HERE])
    pool = parent.pool(1, 3, width, height)
    parent.start({}, [pool])
    frame = pool.put(0, np.zeros((height, width, 3), np.uint8))
    request = protocol.encode(protocol.Extract(frame=frame, deps=[], deadline_ms=1000), 123_456)
    parent.send_raw(request)
    answer = parent.router.recv_multipart()[1]
    assert b'"type":"observations"' in answer, answer
    echo = Echo(len(answer))
    lines = []
    try:
        for name, count, pause in (("back to back", frames, 0), ("paced 30/s", paced, 1 / 30)):
            told = {echo: [], parent: []}
            for peer in told:
                round_trips(peer, request, 50, 0)
            for _ in range(rounds):
                for peer, found in told.items():
                    found.append(percentiles(round_trips(peer, request, count, pause)))
            (e50, e99), (w50, w99) = (
                [statistics.median(f[i] for f in found) for i in (0, 1)] for found in told.values()
            )
            lines.append((name, e50, e99, w50, w99))
    finally:
        echo.close()
        parent.close()
    return len(request), len(answer), lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=1000, help="per round, back to back")
    parser.add_argument("--paced", type=int, default=60, help="per round, at 30 per second")
    args = parser.parse_args()
    print(
        f"Python {sys.version.split()[0]}, pyzmq {zmq.__version__}, numpy {np.__version__}, {os.cpu_count()} cores"
    )
    print("microseconds               echo p50    p99   worker p50    p99   ratio p50")
    worst = 0.0
    for width, height in SIZES:
        asked, answered, lines = measure(width, height, args.rounds, args.frames, args.paced)
        for name, e50, e99, w50, w99 in lines:
            worst = max(worst, w50 / e50)
            print(
                f"{width}x{height:<5} {name:13} {e50:11.0f} {e99:6.0f} {w50:12.0f} {w99:6.0f} {w50 / e50:11.2f}"
            )
    print(f"messages of {asked} and {answered} bytes; the largest ratio is {worst:.2f}, target {TARGET}")
    return 0 if worst <= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
