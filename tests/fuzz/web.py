"""The HTTP entry points: hostile requests to real DICOMweb and console processes, checked after each batch."""

from __future__ import annotations

import random
import re
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import wire
from mutations import mutated
from parser_targets import _meta
from ports import free_port
from program import Program

from dicom_node.dicomweb.child import open_port
from dicom_node.settings import Settings

_SEVERAL = 4
_JSON = b"application/dicom+json"
_STORE = b'multipart/related; type="application/dicom"; boundary=cut'


def _request(method: bytes, path: bytes, *fields: bytes, body: bytes = b"") -> bytes:
    head = [method + b" " + path + b" HTTP/1.1", b"Host: 127.0.0.1", b"Connection: close", *fields]
    if body:
        head.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def _multipart(number: int) -> bytes:
    uid = f"2.999.8.{number}"
    file = _meta("1.2.840.10008.1.2") + wire.ct_image("2.999.8", uid, 60)
    return b"--cut\r\nContent-Type: application/dicom\r\n\r\n" + file + b"\r\n--cut--\r\n"


def _dicomweb() -> tuple[bytes, ...]:
    study = b"/studies/2.999.8"
    workitem = b'[{"00741000":{"vr":"CS","Value":["SCHEDULED"]},"00080018":{"vr":"UI","Value":["1.2"]}}]'
    return (
        _request(b"POST", b"/studies", b"Content-Type: " + _STORE, body=_multipart(1)),
        _request(b"POST", study, b"Content-Type: " + _STORE, body=_multipart(2)),
        _request(b"GET", b"/studies?StudyInstanceUID=2.999.8&limit=3&offset=0&includefield=all", b"Accept: " + _JSON),
        _request(b"GET", b"/series?Modality=CT&SeriesInstanceUID=1.2%5C1.3"),
        _request(b"GET", study + b"/instances?0020000D=1.2&fuzzymatching=true"),
        _request(b"GET", study + b"/metadata", b"Accept: application/dicom+json; q=0.5, */*"),
        _request(b"GET", study, b'Accept: multipart/related; type="application/dicom"; transfer-syntax=*'),
        _request(b"GET", study + b"/series/2.999.8.1/instances/2.999.8.1", b"Accept: application/dicom"),
        _request(b"POST", b"/workitems?1.2.3", b"Content-Type: " + _JSON, body=workitem),
        _request(b"PUT", b"/work/1/reading?owner=a", b"Content-Digest: sha-256=:YQ==:", body=b"{}"),
        _request(b"PUT", b"/work/1/results/en/sr?owner=a", body=b"DICM"),
        _request(b"GET", study, b"Authorization: Basic dTpw", b"Range: bytes=0-1"),
        _request(b"POST", b"/studies", b"Content-Type: " + _STORE, b"Transfer-Encoding: chunked")
        + b"5\r\n--cut\r\n0\r\n\r\n",
    )


def _console() -> tuple[bytes, ...]:
    form = b"Content-Type: application/x-www-form-urlencoded"
    upload = b'--cut\r\nContent-Disposition: form-data; name="name"; filename="a"\r\n\r\nx\r\n--cut--\r\n'
    return (
        _request(b"GET", b"/sign-in?next=/study/1.2"),
        _request(b"POST", b"/sign-in", form, b"Cookie: csrf=00ff", body=b"name=a&password=b&csrf=00ff"),
        _request(b"POST", b"/sign-in", b"Content-Type: multipart/form-data; boundary=cut", body=upload),
        _request(b"POST", b"/sign-out", form, b"Cookie: session=00", body=b"csrf=1"),
        _request(b"POST", b"/language", form, body=b"language=zh&csrf=1&next=%2F"),
        _request(b"GET", b"/study/1.2.3/image/0/0", b"Cookie: session=abc; a=b"),
        _request(b"GET", b"/study/1.2.3/result/../../etc/passwd"),
        _request(b"GET", b"/static/..%2f..%2fsettings.toml"),
        _request(b"GET", b"/?page=2&state=failed"),
        _request(b"GET", b"/metrics", b"Authorization: Bearer x"),
        _request(b"GET", b"/healthz/ready", b"Accept-Language: zh,en;q=0.5"),
        _request(b"GET", b"/sign-in/oidc?state=a&code=b"),
    )


class Web:
    """A server that is attacked."""

    def __init__(self, program: Program, port: int, seeds: tuple[bytes, ...], health: bytes) -> None:
        self._program, self._port, self._seeds, self._health = program, port, seeds, health
        self._marked = False

    def answers(self) -> bool:
        """Whether an ordinary request is answered."""
        return self._ask(self._health)[:13] in (b"HTTP/1.1 200 ", b"HTTP/1.1 204 ")

    def batch(self, chance: random.Random, size: int) -> tuple[int, list[str]]:
        """So many requests; none of them may be answered with 500."""
        requests = [
            mutated(one, chance, self._seeds) if chance.random() < 0.9 else one
            for one in (chance.choice(self._seeds) for _ in range(size))
        ]
        with ThreadPoolExecutor(_SEVERAL) as pool:
            answers = list(pool.map(self._ask, requests))
        failed = [
            f"{request!r} is answered {answer[:200]!r}"
            for request, answer in zip(requests, answers, strict=True)
            if re.match(rb"HTTP/1.[01] 50[0-2]", answer)
        ]
        if not self._marked:
            self._program.mark()
            self._marked = True
        return size, failed + self._program.faults(self.answers)

    def _ask(self, request: bytes) -> bytes:
        answer = b""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=3) as connection:
            connection.sendall(request)
            while part := connection.recv(65536):
                answer += part
        return answer


@contextmanager
def attacked(folder: Path, kind: str) -> Iterator[Callable[[random.Random, int], tuple[int, list[str]]]]:
    """A server process of that kind, dicomweb or console, ready; what is given plays a batch."""
    settings = Settings(
        data={"path": folder / "data", "minimum_free_mib": 0},  # type: ignore[arg-type]  # pydantic makes a table of it
        dicomweb={"enabled": kind == "dicomweb", "port": free_port()},  # type: ignore[arg-type]
        console={"port": free_port()},  # type: ignore[arg-type]
    )
    section = settings.dicomweb if kind == "dicomweb" else settings.console
    seeds, health = (
        (_dicomweb(), _request(b"GET", b"/studies?limit=1"))
        if kind == "dicomweb"
        else (_console(), _request(b"GET", b"/healthz/live"))
    )
    with open_port("127.0.0.1", section.port, "port") as opened:
        descriptor = opened.fileno()
        with Program(
            f"dicom_node.{kind}.server", settings, folder, [str(descriptor)], inherits=[descriptor]
        ) as program:
            web = Web(program, section.port, seeds, health)
            end = time.monotonic() + 90
            while not web.answers():
                assert time.monotonic() < end, program.log.read_text()
                assert program.process.poll() is None, program.log.read_text()
                time.sleep(0.1)
            yield web.batch
