"""Who gets in: each rejection with its result, source and reason (PS3.8 9.3.4), on the wire."""

import socket
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import wire
from listener_bench import Scp
from node_bench import wait_until
from pydantic import SecretStr, ValidationError
from pynetdicom import AE, build_context
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import UserIdentityNegotiation
from pynetdicom.sop_class import Verification
from wire import Wire, associate_rq

from dicom_node.dimse import admission
from dicom_node.dimse.admission import Rejection
from dicom_node.dimse.scu import Peer, PeerError, echo
from dicom_node.dimse.users import Users
from dicom_node.passwords import HashedPassword
from dicom_node.settings import Destination
from dicom_node.settings.listener import User
from engine.errors import SettingsError

_CONTEXT = b"1.2.840.10008.3.1.1.1"


def answer(port: int, request: bytes) -> Rejection | None:
    """The rejection that a request gets; None where it is accepted."""
    with Wire(port) as wire:
        wire.send(request)
        pdu = wire.receive()
    if pdu[:1] == b"\x02":
        return None
    assert pdu[0] == 3, pdu
    fields = tuple(pdu[7:10])
    return next(known for known in admission.REJECTIONS if (known.result, known.source, known.reason) == fields)


def test_titles_addresses_and_protocol_are_looked_at(tmp_path: Path) -> None:
    with Scp(tmp_path, calling_aets=("CT1",), called_aets=("STAT",)) as scp:
        assert answer(scp.port, associate_rq("MEDREGA", "CT1")) is None
        assert answer(scp.port, associate_rq("STAT", "CT1")) is None
        assert answer(scp.port, associate_rq("OTHER", "CT1")) is admission.CALLED_AE_TITLE
        assert answer(scp.port, associate_rq("medrega", "CT1")) is admission.CALLED_AE_TITLE
        assert answer(scp.port, associate_rq("MEDREGA", "CT2")) is admission.CALLING_AE_TITLE
        other = associate_rq("MEDREGA", "CT1").replace(_CONTEXT, b"1.2.840.10008.3.1.1.9")
        assert answer(scp.port, other) is admission.APPLICATION_CONTEXT
        version = bytearray(associate_rq("MEDREGA", "CT1"))
        version[6:8] = b"\x00\x02"
        assert answer(scp.port, bytes(version)) is admission.PROTOCOL_VERSION


@pytest.mark.parametrize(
    ("host", "addresses", "gets_in"),
    [
        ("127.0.0.1", ("127.0.0.0/8",), True),
        ("127.0.0.1", ("10.0.0.0/8", "127.0.0.1"), True),
        ("127.0.0.1", ("10.0.0.0/8", "::1"), False),
        ("::1", ("::1",), True),
        ("::1", ("fd00::/8", "127.0.0.1"), False),
    ],
)
def test_only_listed_addresses_get_in(tmp_path: Path, host: str, addresses: tuple[str, ...], gets_in: bool) -> None:
    with Scp(tmp_path, host=host, addresses=addresses) as scp:
        peer = Peer("MEDREGA", host, scp.port)
        if gets_in:
            assert echo(peer) > 0
        else:
            with pytest.raises(PeerError, match="no reason given"):
                echo(peer)


def test_an_ipv4_sender_at_a_socket_for_both_is_known_by_its_ipv4_address(tmp_path: Path) -> None:
    with Scp(tmp_path, host="::", promiscuous=True, addresses=("127.0.0.1",)) as scp:
        assert echo(Peer("MEDREGA", "127.0.0.1", scp.port)) > 0
        with pytest.raises(PeerError):
            echo(Peer("MEDREGA", "::1", scp.port))


def test_one_association_too_many_is_rejected_until_another_ends(tmp_path: Path) -> None:
    with Scp(tmp_path, max_associations=2) as scp:
        first, second = scp.associate(aet="CT1"), scp.associate(aet="CT2")
        assert answer(scp.port, associate_rq(calling="CT3")) is admission.LIMIT
        assert admission.LIMIT.transient
        first.release()
        assert wait_until(lambda: answer(scp.port, associate_rq(calling="CT3")) is None, 5)
        second.release()


def test_one_peer_takes_no_more_than_its_share(tmp_path: Path) -> None:
    with Scp(tmp_path, max_associations_per_peer=1) as scp:
        first = scp.associate(aet="CT1")
        assert answer(scp.port, associate_rq(calling="CT1")) is admission.LIMIT
        assert answer(scp.port, associate_rq(calling="CT2")) is None
        first.abort()
        assert wait_until(lambda: answer(scp.port, associate_rq(calling="CT1")) is None, 5)


def test_a_request_that_comes_while_the_node_stops_may_come_again_later(tmp_path: Path) -> None:
    scp = Scp(tmp_path)
    association = scp.associate()
    request = associate_rq()
    with Wire(scp.port) as wire:
        wire.send(request[:6])
        assert wait_until(lambda: len(threading_acceptors()) == 2, 5)
        stopping = threading.Thread(target=scp.listener.stop, args=(20,))
        stopping.start()
        assert wait_until(lambda: scp.listener._admission._stopping, 5)
        wire.send(request[6:])
        assert wire.receive()[7:10] == bytes([2, 3, 1])
    association.release()
    stopping.join(20)
    scp.ledger.close()


def threading_acceptors() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if isinstance(thread, Association) and thread.is_acceptor]


def test_silent_and_broken_connections_hold_nobody_up(tmp_path: Path) -> None:
    with Scp(tmp_path, max_associations=1, acse_timeout_seconds=2) as scp:
        silent = [socket.create_connection(("127.0.0.1", scp.port)) for _ in range(admission._WAITING // 2)]
        garbage = [socket.create_connection(("127.0.0.1", scp.port)) for _ in range(4)]
        garbage[0].sendall(b"GET / HTTP/1.0\r\n\r\n")
        garbage[1].sendall(b"\x01\x00\xff\xff\xff\xff")
        garbage[2].sendall(bytes(200))
        garbage[3].sendall(associate_rq(calling=""))
        assert echo(scp.peer) > 0
        for connection in silent:
            connection.settimeout(20)
            assert connection.recv(1) == b""  # closed by the node, after its time
        assert echo(scp.peer) > 0
        for connection in silent + garbage:
            connection.close()


def test_a_request_that_stops_half_way_leaves_nothing_behind(tmp_path: Path) -> None:
    """The library tells nobody that it gives such a one up; each would hold a buffer of a quarter of a megabyte."""
    with Scp(tmp_path, acse_timeout_seconds=1, network_timeout_seconds=1) as scp, ExitStack() as stack:
        server = scp.listener._server
        assert server is not None
        for _ in range(3):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", scp.port)))
            connection.sendall(associate_rq()[:6])
        assert wait_until(lambda: server.waiting() == 3)
        assert wait_until(lambda: server.waiting() == 0)
        assert not scp.listener._sent_by


def test_requests_whose_senders_have_gone_leave_nothing_behind(tmp_path: Path) -> None:
    """The connection's thread may find its end before the association's has dealt with the request."""
    with Scp(tmp_path) as scp:
        server = scp.listener._server
        assert server is not None
        for _ in range(30):
            with socket.create_connection(("127.0.0.1", scp.port)) as connection:
                connection.sendall(associate_rq())
        assert scp.associate(Verification).is_established
        assert wait_until(lambda: len(scp.listener._sent_by) == 1)


def test_more_connections_that_ask_for_nothing_than_may_wait_are_closed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "_WAITING", 6)
    with Scp(tmp_path) as scp:
        server = scp.listener._server
        assert server is not None
        established = scp.associate(Verification)
        idle = [socket.create_connection(("127.0.0.1", scp.port)) for _ in range(admission._WAITING)]
        for connection in idle[::2]:
            connection.sendall(b"\x01\x00\x00\x00\x10\x00half a request")
        assert wait_until(lambda: server.waiting() == admission._WAITING, 20)
        with socket.create_connection(("127.0.0.1", scp.port), timeout=10) as one_more:
            assert one_more.recv(1) == b""
        assert established.send_c_echo().Status == 0
        established.release()
        for connection in idle:
            connection.close()
        assert wait_until(lambda: server.waiting() == 0, 20)
        assert echo(scp.peer) > 0


@pytest.mark.parametrize(
    "message",
    [
        wire.pdu(10, b""),
        wire.data(wire.item(3, 3, wire.command(wire.element(2, wire.VERIFICATION), wire.element(0x100, 0x7777)))),
        wire.data(wire.item(99, 3, wire.echo_rq())),
        wire.data(wire.item(2, 3, wire.echo_rq())),
        wire.data(wire.item(3, 3, b"\xff" * 40)),
        wire.data(wire.item(3, 3, wire.command(wire.element(0x100, 0x30)))),
        wire.pdu(4, b"\0\0\0\1\3"),
    ],
    ids=["no PDU", "no command", "no context", "even context", "no command set", "no SOP class", "no value"],
)
def test_what_is_no_message_is_answered_by_an_abort_and_nobody_else_hears_of_it(tmp_path: Path, message: bytes) -> None:
    with Scp(tmp_path, max_associations=1, acse_timeout_seconds=5) as scp:
        with Wire(scp.port) as connection:
            connection.send(associate_rq())
            assert connection.receive()[0] == 2
            connection.send(message)
            assert connection.receive()[:1] == wire.ABORT[:1]
        assert wait_until(lambda: answer(scp.port, associate_rq()) is None, 10)


def identity(kind: int, name: str, passcode: str = "", *, positive: bool = True) -> UserIdentityNegotiation:
    item = UserIdentityNegotiation()
    item.user_identity_type = kind
    item.positive_response_requested = positive
    item.primary_field = name.encode()
    item.secondary_field = passcode.encode()
    return item


def ask(scp: Scp, item: UserIdentityNegotiation | None) -> Association:
    return AE("CT1").associate(
        "127.0.0.1",
        scp.port,
        contexts=[build_context(Verification)],
        ae_title="MEDREGA",
        ext_neg=[item] if item is not None else [],
    )


def test_users_prove_who_they_are(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("größer als\n", encoding="utf-8")
    hashed = SecretStr(str(HashedPassword.of("abc")))
    users = (User(name="müller", passcode_file=secret), User(name="gate", passcode_hash=hashed), User(name="bare"))
    cases = [
        (identity(2, "müller", "größer als"), True),
        (identity(2, "gate", "abc"), True),
        (identity(1, "bare"), True),
        (identity(2, "gate", "abd"), False),
        (identity(2, "nobody", "abc"), False),
        (identity(1, "gate"), False),
        (identity(2, "bare", "abc"), False),
    ]
    with Scp(tmp_path, users=users, require_user=True) as scp:
        for item, accepted in cases:
            association = ask(scp, item)
            assert association.is_established is accepted, item
            if accepted:
                assert association.acceptor.user_identity is not None
                association.release()
            else:
                rejected = association.acceptor.primitive
                assert (rejected.result, rejected.result_source, rejected.diagnostic) == (1, 2, 1)  # type: ignore[union-attr]
        assert ask(scp, None).is_rejected
        quiet = ask(scp, identity(2, "gate", "abc", positive=False))
        assert quiet.acceptor.user_identity is None
        quiet.release()


def test_who_guesses_with_many_connections_is_no_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks, most, look = [0], [], HashedPassword.matches

    def counted(known: HashedPassword, passcode: str) -> bool:
        looks[0] += 1
        most.append(looks[0])
        try:
            return look(known, passcode)
        finally:
            looks[0] -= 1

    monkeypatch.setattr(HashedPassword, "matches", counted)
    users = (User(name="gate", passcode_hash=SecretStr(str(HashedPassword.of("abc")))),)
    with Scp(tmp_path, users=users, require_user=True) as scp:
        most.clear()
        threads = [threading.Thread(target=ask, args=(scp, identity(2, "gate", "abd"))) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most == [1] * 6


def test_the_node_says_who_it_is_where_a_peer_asks(tmp_path: Path) -> None:
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("abc\n")
    wrong.write_text("abd\n")
    users = (User(name="node", passcode_file=right), User(name="bare"))
    with Scp(tmp_path, users=users, require_user=True) as scp:
        address: dict[str, Any] = {"name": "pacs", "aet": "MEDREGA", "port": scp.port}
        for who in ({"user": "node", "password_file": right}, {"user": "bare"}):
            assert echo(Peer.of(Destination(**address, **who))) > 0
        for who in ({"user": "node", "password_file": wrong}, {"user": "node"}, {}):
            with pytest.raises(PeerError) as caught:
                echo(Peer.of(Destination(**address, **who)))
            assert "user" in caught.value.advice
            assert not caught.value.retry
    with pytest.raises(ValidationError, match="set tls"):
        Destination(name="pacs", aet="A", port=104, host="pacs.example", user="a", password_file=right)


def test_identities_are_not_looked_at_where_nobody_is_listed(tmp_path: Path) -> None:
    with Scp(tmp_path) as scp:
        for item in (identity(2, "who", "ever"), None):
            association = ask(scp, item)
            assert association.is_established
            assert association.acceptor.user_identity is None
            association.release()


def test_a_passcode_that_cannot_be_read_is_told_before_listening(tmp_path: Path) -> None:
    for user in (User(name="a", passcode_file=tmp_path / "none"), User(name="a", passcode_hash=SecretStr("scrypt:1"))):
        with pytest.raises(SettingsError):
            Users([user])
