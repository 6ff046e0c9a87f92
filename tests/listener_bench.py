"""A listener with its spool and ledger, and a peer that asks it for associations."""

import os
from collections.abc import Collection
from pathlib import Path

from ports import free_port
from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom import AE, build_context
from pynetdicom.association import Association
from pynetdicom.sop_class import ComputedRadiographyImageStorage

from dicom_node.dimse.listener import Listener
from dicom_node.dimse.scu import Peer
from dicom_node.ledger import Ledger
from dicom_node.settings import LimitsSettings, ListenerSettings
from dicom_node.settings.listener import User
from dicom_node.settings.settings import ENVIRONMENT_PREFIX
from dicom_node.spool import Spool

FAST = os.environ.get(f"{ENVIRONMENT_PREFIX}LISTENER__FAST", "true") == "true"
"""A whole run can do without the fast receive path: the variable counts here as it does for the nodes of the tests."""


class Scp:
    """A listener on loopback; as a context it is closed."""

    def __init__(
        self,
        folder: Path,
        *,
        called_aets: Collection[str] = (),
        users: Collection[User] = (),
        limits: LimitsSettings | None = None,
        **settings: object,
    ) -> None:
        self.port = free_port()
        self.ledger = Ledger(f"sqlite:///{folder / 'ledger.sqlite3'}")
        self.ledger.migrate()
        self.spool = Spool(folder / "data", limits=limits or LimitsSettings())
        self.peer = Peer("MEDREGA", "127.0.0.1", self.port)
        self.settings = ListenerSettings(port=self.port, **{"fast": FAST, **settings})  # type: ignore[arg-type]
        self.listener = Listener(self.settings, self.spool, self.ledger, called_aets=called_aets, users=users)
        self.listener.start()

    def __enter__(self) -> "Scp":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.listener.stop(2)
        self.ledger.close()

    def associate(self, *classes: str, syntax: str = ImplicitVRLittleEndian, aet: str = "CT1") -> Association:
        association = AE(aet).associate(
            "127.0.0.1",
            self.port,
            ae_title="MEDREGA",
            contexts=[build_context(uid, syntax) for uid in classes or (ComputedRadiographyImageStorage,)],
        )
        assert association.is_established
        return association
