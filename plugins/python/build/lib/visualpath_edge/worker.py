"""``python -m visualpath_edge.worker``: the process that runs one Python extractor or fusion.

::

    hello ─▶ ◀─ hello      load, make, initialize      ready ─▶
                                                             ◀─ extract, fuse, gap, end, reset, …
    answer ─▶                                                   until shutdown, or the parent is gone

It is started by the appliance, which gives it an endpoint, a token and descriptor 3 (PROTOCOL.md,
"How a child is started"). By hand it only says what is missing.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import signal
import sys
import threading
import time
from typing import Any, Callable, Dict, List, NamedTuple, Optional

from . import loading, protocol

#: Seconds that the plugin's clean-up, its threads and its exit handlers have together.
END_SECONDS = 5.0
#: Exit status when it was not started as a worker, or its parent refused it.
REFUSED = 2


class Asked(NamedTuple):
    """What the command line asks for."""

    kind: str
    plugin: Optional[str]
    entry_point: Optional[str]

    def find(self) -> loading.Plugin:
        if self.entry_point is None:
            return loading.find(self.kind, self.plugin or "")
        return loading.Plugin(self.plugin or self.entry_point, "", self.entry_point)


def main(argv: Optional[List[str]] = None) -> int:
    """The exit status."""
    asked = _arguments(argv)
    # The appliance decides when it ends; a terminal's Ctrl-C is the appliance's, too.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    _lines(sys.stdout)
    _lines(sys.stderr)
    # `-m` puts the working directory first, which here is the plugin's to write to.
    if sys.path and sys.path[0] in ("", os.path.abspath(os.curdir)):
        del sys.path[0]
    endpoint, token = os.environ.get("VISUALPATH_ENDPOINT"), os.environ.get("VISUALPATH_TOKEN")
    if not endpoint or not token:
        print("VISUALPATH_ENDPOINT or VISUALPATH_TOKEN is not set: this is started by visualpath, "
              "as the worker of an extractor with isolation = \"venv\"", file=sys.stderr)  # fmt: skip
        return REFUSED
    from .pools import inherited

    pools = inherited()
    if pools is None:
        print("descriptor 3 is no socket: this is started by visualpath", file=sys.stderr)
        return REFUSED
    return Worker(asked, endpoint, token, pools).run()


def _arguments(argv: Optional[List[str]]) -> Asked:
    parser = argparse.ArgumentParser(prog="python -m visualpath_edge.worker", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--plugin", metavar="NAME", help="name of the entry point")
    parser.add_argument("--entry-point", metavar="MODULE:CLASS", help="the class, installed or not")
    parser.add_argument("--path", metavar="DIR", help="where else modules are looked for, last")
    parser.add_argument("--kind", choices=sorted(loading.GROUPS), default="extractor")
    parsed = parser.parse_args(argv)
    if not parsed.plugin and not parsed.entry_point:
        parser.error("one of --plugin and --entry-point is needed")
    if parsed.path:
        sys.path.append(parsed.path)
    return Asked(parsed.kind, parsed.plugin, parsed.entry_point)


def _lines(stream: Any) -> None:
    """Whole lines at once: the parent reads them as they come."""
    try:
        stream.reconfigure(line_buffering=True)
    except (AttributeError, ValueError):
        pass


class Worker:
    """One process's life."""

    def __init__(self, asked: Asked, endpoint: str, token: str, pools: Any):
        from .link import Link
        from .reports import Reports

        self._asked = asked
        self._token = token
        self._pools = pools
        self._link = Link(endpoint, token, pools)
        self._reports = Reports(self._link.offer)
        #: Why the plugin can't be run; told again whenever something is asked of it.
        self._broken: Optional[protocol.ErrorReport] = None
        self._host: Any = None
        self._name = ""
        self._plugin: Optional[loading.Plugin] = None
        self._requests: Dict[type, Callable[..., bytes]] = {
            protocol.ParentHello: self._hello,
            protocol.Ping: self._ping,
            protocol.Extract: self._extract,
            protocol.Fuse: self._fusion,
            protocol.Gap: self._fusion,
            protocol.End: self._fusion,
            protocol.Reset: self._reset,
            protocol.Pool: self._pool,
        }

    def run(self) -> int:
        status, gone = 0, False
        try:
            self._say_hello()
            status, gone = self._serve()
        finally:
            watchdog = threading.Timer(END_SECONDS, os._exit, (status,))
            watchdog.daemon = True
            watchdog.start()
            self._clean_up()
            self._link.close(gone)
        return status

    def _say_hello(self) -> None:
        try:
            self._plugin = self._asked.find()
        except Exception as error:
            # The parent hears it in answer to its own hello.
            self._broken = _error(error)
        name = self._asked.plugin or self._asked.entry_point or ""
        self._link.send(
            protocol.encode(
                protocol.ChildHello(
                    token=self._token,
                    name=name[:64],
                    version=(self._plugin.version if self._plugin else "")[:64],
                    protocols=[protocol.PROTOCOL],
                    codecs=[protocol.CODEC],
                    signals=[],
                ),
                0,
            )
        )
        # While the parent thinks: numpy, and what `visualpath` a plugin may import.
        from . import host, shims  # noqa: F401

        shims.install()

    def _serve(self) -> Any:
        """Until told to end: the exit status, and whether the parent is gone."""
        from .host import Ends

        while True:
            parts = self._link.receive()
            if parts is None:
                return 0, True
            began_ns = time.monotonic_ns()
            try:
                answer = self._answer(parts, began_ns)
            except _Shutdown as end:
                return end.status, False
            except Ends as end:
                return end.status, not self._link.send(end.answer)
            if self._host is not None:
                self._host.settle()
            if answer is not None and not self._link.send(answer):
                return 0, True

    def _answer(self, parts: List[Any], began_ns: int) -> Optional[bytes]:
        """The bytes to answer with; none where nothing is asked."""
        from .host import ends_of

        id = 0
        try:
            id, message = protocol.decode_from_parent(parts[0])
            if isinstance(message, protocol.Shutdown):
                raise _Shutdown(0)
            if isinstance(message, protocol.ErrorReport):
                return self._refused(message)
            if len(parts) > 1 and not isinstance(message, protocol.Extract):
                raise protocol.ProtocolError(
                    "body", f"{len(parts)} parts; only extract has pixels beside it", id
                )
            return self._requests[type(message)](id, message, parts[1:], began_ns)
        except _Shutdown:
            raise
        except Exception as error:
            if isinstance(error, protocol.ProtocolError) and error.id is not None:
                id = error.id
            return protocol.encode(_error(error), id)
        except BaseException as error:
            raise ends_of(id, error) from None

    def _refused(self, message: protocol.ErrorReport) -> None:
        print(f"the parent refused a message: {message.error}", file=sys.stderr)
        if self._host is None and self._broken is None:
            # It refused the hello: there is nothing to go on with.
            raise _Shutdown(REFUSED)

    # -- requests --------------------------------------------------------------------------------

    def _hello(self, id: int, hello: protocol.ParentHello, beside: List[Any], began_ns: int) -> bytes:
        from . import host, reports, shims

        if self._host is not None:
            raise protocol.ProtocolError("body", "hello: a second one", id)
        self._check_started()
        if hello.codec != protocol.CODEC:
            raise protocol.ProtocolError(
                "body", f"hello.codec: {hello.codec!r}, which was not offered", id
            )
        for pool in hello.pools:
            self._pools.open(pool)
        assert self._plugin is not None
        self._name = hello.name or self._plugin.name
        reports.install(self._reports)
        shims.report_to(self._reports.trace)

        def progress(percent: float, text: str) -> None:
            told = protocol.Progress(percent=percent, text=reports.fitting(text, 4096))
            self._link.offer(protocol.encode(told, id))

        try:
            started = host.start(
                self._asked.kind, self._plugin, hello, self._name, self._pools, self._reports, progress
            )
            answer = host.encoded(started.ready(), id)
        except Exception as error:
            self._broken = _error(error)
            raise
        shims.adopt(self._reports.trace)
        self._host = started
        _settle_memory()
        return answer

    def _ping(self, id: int, message: Any, beside: List[Any], began_ns: int) -> bytes:
        self._check_started()
        return protocol.encode(protocol.Pong(extractor=self._name), id)

    def _extract(self, id: int, message: Any, beside: List[Any], began_ns: int) -> bytes:
        return self._running("extractor", id).extract(id, message, beside, began_ns)

    def _fusion(self, id: int, message: Any, beside: List[Any], began_ns: int) -> bytes:
        running = self._running("fusion", id)
        ask = {protocol.Fuse: "fuse", protocol.Gap: "gap", protocol.End: "end"}[type(message)]
        return getattr(running, ask)(id, message)

    def _reset(self, id: int, message: Any, beside: List[Any], began_ns: int) -> bytes:
        self._running(self._asked.kind, id).reset()
        return protocol.encode(protocol.Ok(), id)

    def _pool(self, id: int, message: Any, beside: List[Any], began_ns: int) -> bytes:
        self._pools.open(message)
        return protocol.encode(protocol.Ok(), id)

    def _running(self, kind: str, id: int) -> Any:
        self._check_started()
        if self._host is None:
            raise protocol.ProtocolError("body", "no hello yet", id)
        if self._asked.kind != kind:
            raise protocol.ProtocolError("type", f"this is a {self._asked.kind}, not a {kind}", id)
        return self._host

    def _check_started(self) -> None:
        if self._broken is not None:
            raise _Broken(self._broken)

    def _clean_up(self) -> None:
        if self._host is None:
            return
        try:
            self._host.cleanup()
        except BaseException as error:
            self._reports.log("error", f"cleanup: {type(error).__qualname__}: {error}")


class _Shutdown(BaseException):
    def __init__(self, status: int):
        super().__init__()
        self.status = status


class _Broken(Exception):
    """Something is asked of a plugin that did not start."""

    def __init__(self, report: protocol.ErrorReport):
        super().__init__()
        self.report = report


def _error(error: Exception) -> protocol.ErrorReport:
    from .host import error_of

    return error.report if isinstance(error, _Broken) else error_of(error)


def _settle_memory() -> None:
    """What was loaded stays: no collection needs to look at it again."""
    import gc

    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    sys.exit(main())
