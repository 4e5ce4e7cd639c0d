"""A parent for tests: a real ROUTER, real sealed memory passed over a real socket, a real child.

It does what the appliance does, no more; what the child says is decoded by the protocol's own module.
"""

import fcntl
import mmap
import os
import secrets
import socket
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import zmq

from visualpath_edge import protocol
from visualpath_edge.protocol import decode_from_child, encode

#: Seconds after which a test is hanging; nothing is that slow.
HANGS = 60
SRC = Path(__file__).resolve().parents[1] / "src"
PLUGINS = Path(__file__).resolve().parent / "plugins"

F_ADD_SEALS, SEALS = 1033, 0x01 | 0x02 | 0x04 | 0x10
HEADER = struct.Struct("=4sIQ")


class SharedPool:
    """Memory of frames, made and sealed as the appliance does."""

    def __init__(self, pool_id, slots, slot_bytes, format="bgr", width=64, height=48):
        page = mmap.PAGESIZE
        self.slot_bytes = -(-slot_bytes // page) * page
        self.first = -(-slots * 128 // page) * page
        self.size = self.first + slots * self.slot_bytes
        fd = os.memfd_create(f"pool{pool_id}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, self.size)
        self.memory = mmap.mmap(fd, self.size)
        fcntl.fcntl(fd, F_ADD_SEALS, SEALS)
        self.read_only = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        os.close(fd)
        self.generation = 0
        stride = {"grey": width, "nv12": width, "i420": width, "yuyv": 2 * width}.get(format, 3 * width)
        self.told = protocol.Pool(
            pool_id, slots, self.slot_bytes, protocol.Layout(format, width, height, stride)
        )

    def put(self, slot, picture, **said):
        """Fills a slot; gives the FrameRef of it."""
        self.generation += 1
        data = np.ascontiguousarray(picture).tobytes()
        offset = self.first + slot * self.slot_bytes
        self.memory[offset : offset + len(data)] = data
        self.memory[slot * 128 : slot * 128 + 16] = HEADER.pack(b"VPSH", 1, self.generation)
        return frame_ref(
            picture, pool_id=self.told.pool_id, slot=slot, generation=self.generation, offset=offset, **said
        )

    def close(self):
        os.close(self.read_only)
        self.memory.close()


def frame_ref(picture, **said):
    height, width = picture.shape[:2]
    bgr = picture.ndim == 3 and picture.shape[2] == 3
    fields = {
        "pool_id": 0, "slot": 0, "generation": 0, "frame_id": 7, "t_ns": 280_000_000,
        "width": width, "height": height, "format": "bgr" if bgr else "grey",
        "stride": width * 3 if bgr else width, "offset": 0, "frame_width": width,
        "frame_height": height, "roi": [0.0, 0.0, 1.0, 1.0], "pixels": "slot",
    }  # fmt: skip
    fields.update(said)
    return protocol.FrameRef(**fields)


class Parent:
    """Starts one child and talks to it. Use as a context manager."""

    def __init__(self, *arguments, path=(), python=sys.executable, env=None, connect=True):
        self.logs, self.traces, self.progress = [], [], []
        self.id = 0
        self._dir = tempfile.TemporaryDirectory(prefix="vp")
        self._pools = []
        self.token = secrets.token_hex(16)
        self._context = zmq.Context()
        self.router = self._context.socket(zmq.ROUTER)
        self.router.setsockopt(zmq.LINGER, 0)
        endpoint = f"ipc://{self._dir.name}/worker"
        self.router.bind(endpoint)
        self.pool_socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "PYTHONPATH": os.pathsep.join(map(str, (*path, PLUGINS, SRC))),
            "PYTHONDONTWRITEBYTECODE": "1",
            "VISUALPATH_ENDPOINT": endpoint,
            "VISUALPATH_TOKEN": self.token,
            **(env or {}),
        }
        work = Path(self._dir.name) / "work"
        work.mkdir()
        self.stderr = open(Path(self._dir.name) / "stderr", "w+b")
        # It comes as standard input and is moved to descriptor 3, as the appliance's stage does.
        command = ["/bin/sh", "-c", 'exec "$@" 3<&0 0</dev/null', "sh"]
        self.process = subprocess.Popen(
            [*command, python, "-m", "visualpath_edge.worker", *map(str, arguments)],
            stdin=theirs, stdout=self.stderr, stderr=self.stderr,
            cwd=work, env=environment, start_new_session=True,
        )  # fmt: skip
        theirs.close()
        self.hello = self.receive(0) if connect else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # -- messages --------------------------------------------------------------------------------

    def tell(self, message, *beside, id=None):
        """Sends a request; gives its id."""
        if id is None:
            self.id += 1
            id = self.id
        self.send_raw(encode(message, id), *beside)
        return id

    def send_raw(self, *parts):
        self.router.send_multipart([self.token.encode(), *parts])

    def receive(self, id, hangs=HANGS):
        """The answer to ``id``; logs, traces and progress on the way are kept."""
        until = time.monotonic() + hangs
        while True:
            # In steps, so that a child that died is not waited for.
            if not self.router.poll(200):
                if time.monotonic() > until or self.process.poll() is not None:
                    raise TimeoutError(f"no answer to {id}; the child wrote: {self.written()}")
                continue
            identity, data = self.router.recv_multipart()
            assert identity == self.token.encode()
            came = decode_from_child(data)
            if isinstance(came.message, protocol.Log):
                self.logs.append(came.message)
            elif isinstance(came.message, protocol.TraceRecord):
                self.traces.append(came.message.record)
            elif isinstance(came.message, protocol.Progress):
                self.progress.append((came.message.percent, came.message.text))
            else:
                assert came.id == id, came
                return came.message

    def ask(self, message, *beside, hangs=HANGS):
        return self.receive(self.tell(message, *beside), hangs)

    def start(self, config=None, pools=(), **said):
        """Says hello and awaits the answer to it."""
        hello = {"codec": "json/1", "config": config or {}, "zones": [], "name": "mine", **said}
        for pool in pools:
            self.pass_pool(pool)
        return self.ask(protocol.ParentHello(pools=[p.told for p in pools], **hello))

    # -- frames ----------------------------------------------------------------------------------

    def pool(self, pool_id=1, slots=4, width=64, height=48, slot_bytes=None, format="bgr"):
        pool = SharedPool(pool_id, slots, slot_bytes or width * height * 3, format, width, height)
        self._pools.append(pool)
        return pool

    def pass_pool(self, pool):
        socket.send_fds(self.pool_socket, [pool.told.pool_id.to_bytes(4, "little")], [pool.read_only])

    def extract(self, frame, *beside, deps=(), hangs=HANGS):
        return self.ask(protocol.Extract(frame=frame, deps=list(deps)), *beside, hangs=hangs)

    # -- the process -----------------------------------------------------------------------------

    def maps(self):
        """Lines of /proc/…/maps that are pools."""
        lines = Path(f"/proc/{self.process.pid}/maps").read_text().splitlines()
        return [line for line in lines if "memfd:pool" in line]

    def written(self):
        self.stderr.seek(0)
        return self.stderr.read().decode("utf-8", "replace")

    def wait(self, hangs=HANGS):
        """Exit status of the child."""
        return self.process.wait(hangs)

    def shut_down(self):
        self.tell(protocol.Shutdown())
        return self.wait()

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(HANGS)
        self.pool_socket.close()
        self.router.close()
        self._context.term()
        for pool in self._pools:
            pool.close()
        self.stderr.close()
        self._dir.cleanup()
