"""DICOM upper layer PDUs byte by byte (PS3.8 9.3), for senders that are faster, or worse, than any library's."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import CTImageStorage, ImplicitVRLittleEndian

RELEASE_RQ = b"\5\0\0\0\0\4\0\0\0\0"
ABORT = b"\7\0\0\0\0\4\0\0\0\0"
VERIFICATION = "1.2.840.10008.1.1"


def pdu(kind: int, body: bytes) -> bytes:
    return struct.pack(">BxI", kind, len(body)) + body


def item(context_id: int, control: int, value: bytes) -> bytes:
    """A presentation data value: 1 is a command's, 2 the last fragment's."""
    return struct.pack(">IBB", len(value) + 2, context_id, control) + value


def data(*items: bytes) -> bytes:
    return pdu(4, b"".join(items))


def element(number: int, value: bytes | int | str) -> bytes:
    """An element of a command set (PS3.7 6.3.1)."""
    if isinstance(value, int):
        value = struct.pack("<H", value)
    elif isinstance(value, str):
        value = value.encode() + b"\0" * (len(value) % 2)
    return struct.pack("<HHI", 0, number, len(value)) + value


def command(*elements: bytes) -> bytes:
    body = b"".join(elements)
    return element(0, struct.pack("<I", len(body))) + body


def store_rq(sop_instance_uid: str, sop_class_uid: str = CTImageStorage, message_id: int = 1) -> bytes:
    return command(
        element(0x0002, sop_class_uid),
        element(0x0100, 1),
        element(0x0110, message_id),
        element(0x0700, 0),
        element(0x0800, 1),
        element(0x1000, sop_instance_uid),
    )


def echo_rq(message_id: int = 7) -> bytes:
    return command(
        element(0x0002, VERIFICATION), element(0x0100, 0x30), element(0x0110, message_id), element(0x0800, 0x101)
    )


def fragments(data_set: bytes, context_id: int = 1, size: int = 131_072) -> Iterator[bytes]:
    """P-DATA-TF PDUs that hold a data set, each of at most that size without its header."""
    step = size - 6
    for begin in range(0, max(len(data_set), 1), step):
        last = begin + step >= len(data_set)
        yield data(item(context_id, 2 if last else 0, data_set[begin : begin + step]))


def store(sop_instance_uid: str, data_set: bytes, message_id: int = 1, size: int = 131_072) -> list[bytes]:
    """The PDUs of a C-STORE request for a CT image in context 1."""
    rq = store_rq(sop_instance_uid, message_id=message_id)
    return [data(item(1, 3, rq)), *fragments(data_set, size=size)]


def encoded(dataset: Dataset) -> bytes:
    """A data set in implicit VR little endian."""
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = True, True
    write_dataset(buffer, dataset)
    return buffer.getvalue()


def ct_image(study: str, sop: str, size: int) -> bytes:
    """A CT image of about so many bytes, as an encoded data set."""
    dataset = Dataset()
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = sop
    dataset.Modality = "CT"
    dataset.StudyInstanceUID = study
    dataset.SeriesInstanceUID = f"{study}.1"
    head = encoded(dataset)
    return head + struct.pack("<HHI", 0x7FE0, 0x0010, size) + bytes(size)


def associate_rq(
    called: str = "MEDREGA",
    calling: str = "REPLAY",
    contexts: Iterable[tuple[int, str, str]] = (
        (1, CTImageStorage, ImplicitVRLittleEndian),
        (3, VERIFICATION, ImplicitVRLittleEndian),
    ),
    maximum: int = 131_072,
) -> bytes:
    def sub(kind: int, value: bytes) -> bytes:
        return struct.pack(">BxH", kind, len(value)) + value

    body = struct.pack(">Hxx16s16s32x", 1, called.ljust(16).encode(), calling.ljust(16).encode())
    body += sub(0x10, b"1.2.840.10008.3.1.1.1")
    for number, abstract, transfer in contexts:
        body += sub(
            0x20, struct.pack(">Bxxx", number) + sub(0x30, str(abstract).encode()) + sub(0x40, str(transfer).encode())
        )
    body += sub(0x50, sub(0x51, struct.pack(">I", maximum)) + sub(0x52, b"1.2.3.4"))
    return pdu(1, body)


class Wire:
    """A connection that PDUs go over; as a context it is closed."""

    def __init__(self, port: int, seconds: float = 20) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=seconds)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *pdus: bytes) -> None:
        for one in pdus:
            self.socket.sendall(one)

    def receive(self) -> bytes:
        """One PDU; empty where the peer closed the connection."""
        head = self._exactly(6)
        return head + self._exactly(int.from_bytes(head[2:6], "big")) if len(head) == 6 else b""

    def _exactly(self, count: int) -> bytes:
        taken = bytearray()
        while len(taken) < count:
            try:
                part = self.socket.recv(count - len(taken))
            except (ConnectionError, TimeoutError):
                break
            if not part:
                break
            taken += part
        return bytes(taken)

    def associate(self, *args: object, **kwargs: object) -> bytes:
        self.send(associate_rq(*args, **kwargs))  # type: ignore[arg-type]
        return self.receive()

    def release(self) -> bytes:
        self.send(RELEASE_RQ)
        return self.receive()

    def rest(self) -> list[bytes]:
        """Every PDU until the connection ends."""
        answers = []
        while answer := self.receive():
            answers.append(answer)
        return answers


def status_of(response: bytes) -> int:
    """Status of a response PDU: the value of (0000,0900)."""
    place = response.rindex(b"\0\0\0\x09\2\0\0\0") + 8  # the last: a message ID of 0209H looks like it
    return int.from_bytes(response[place : place + 2], "little")
