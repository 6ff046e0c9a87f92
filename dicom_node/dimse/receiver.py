"""A small receiving PACS: a storage SCP that keeps what it gets in a folder. For the demo and the tests."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from pydicom.uid import UID
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, AllStoragePresentationContexts, _config, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from dicom_node.dimse.scu import SUCCESS, Peer
from engine.errors import NodeError


class Receiver:
    """A storage SCP on loopback that writes each data set, as received, to ``folder/<SOP instance UID>.dcm``.

    Parameters
    ----------
    folder : Path
        Created when missing.
    aet : str
    port : int
        0 takes a free one; `peer` says which.
    on_stored : callable, optional
        Called with the path of each stored file, in the association's thread.
    """

    def __init__(
        self, folder: Path, aet: str = "PACS", port: int = 0, *, on_stored: Callable[[Path], None] | None = None
    ) -> None:
        self.folder = folder
        self._aet = aet
        self._port = port
        self._on_stored = on_stored
        self._changed = threading.Condition()
        self._files: dict[str, Path] = {}

    @property
    def peer(self) -> Peer:
        """Where to send to."""
        return Peer(self._aet, "127.0.0.1", self._port)

    @property
    def files(self) -> list[Path]:
        """What was received, in order of first arrival."""
        with self._changed:
            return list(self._files.values())

    def wait_for(self, condition: Callable[[list[Path]], bool], timeout: float) -> bool:
        """Wait until what was received meets a condition; whether it did in time (seconds)."""
        with self._changed:
            return self._changed.wait_for(lambda: condition(list(self._files.values())), timeout)

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        entity = AE(self._aet)
        entity.maximum_pdu_size = 131_072
        entity.add_supported_context(Verification)
        for context in AllStoragePresentationContexts:
            entity.add_supported_context(context.abstract_syntax, ALL_TRANSFER_SYNTAXES)  # type: ignore[arg-type]
        try:
            self._server = entity.start_server(
                ("127.0.0.1", self._port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)]
            )
        except OSError as error:
            raise NodeError(f"port {self._port} cannot be listened at: {error.strerror}") from None
        assert self._server is not None  # noqa: S101 - block=False always returns the server
        self._port = self._server.server_address[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.shutdown()

    def _store(self, event: evt.Event) -> int:
        request = event.request
        assert isinstance(request, C_STORE)  # noqa: S101 - EVT_C_STORE carries nothing else
        uid = UID(str(request.AffectedSOPInstanceUID))
        if not uid.is_valid:
            return 0xA900  # the data set does not match the SOP class (PS3.4 table B.2-1)
        path = self.folder / f"{uid}.dcm"
        if _config.STORE_RECV_CHUNKED_DATASET:  # the process may hold a listener that has set so
            shutil.copyfile(event.dataset_path, path)
        else:
            path.write_bytes(event.encoded_dataset())
        with self._changed:
            self._files[uid] = path
            self._changed.notify_all()
        if self._on_stored is not None:
            self._on_stored(path)
        return SUCCESS
