"""The link where nobody is at the other end."""

import socket
import threading

import pytest
from parent import HANGS

from visualpath_edge.link import MAX_WAITING, Link
from visualpath_edge.pools import Pools, inherited


@pytest.fixture
def link(tmp_path):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link = Link(f"ipc://{tmp_path}/nobody", "token", Pools(theirs))
    yield link, ours
    link.close(gone=True)
    ours.close()
    theirs.close()


def test_an_answer_that_nobody_takes_waits_until_the_parent_is_gone(link):
    link, parent = link
    sent = []

    def fill():
        # As many as the socket keeps, then one that has to wait.
        link._main = threading.get_ident()
        while link.send(b"answer"):
            sent.append(1)

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    thread.join(0.5)
    assert thread.is_alive() and len(sent) >= 1000
    parent.close()
    thread.join(HANGS)
    assert not thread.is_alive()


def test_what_may_be_lost_never_waits_and_never_grows(link):
    link, _ = link
    for _ in range(5000):
        link.offer(b"line")
    other = threading.Thread(target=lambda: [link.offer(b"line") for _ in range(100_000)])
    other.start()
    other.join(HANGS)
    assert not other.is_alive() and len(link._waiting) == MAX_WAITING


def test_the_end_of_the_parent_is_received(link):
    link, parent = link
    parent.send(b"nothing that is known")
    parent.close()
    assert link.receive() is None


def test_a_descriptor_that_is_no_such_socket_is_told(tmp_path):
    with open(tmp_path / "file", "wb") as file:
        assert inherited(file.fileno()) is None
    with socket.socket() as tcp:
        assert inherited(tcp.fileno()) is None
        # It is still whose it was.
        assert tcp.fileno() >= 0 and tcp.getsockname()
