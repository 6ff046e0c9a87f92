"""User identity of associations (PS3.7 D.3.3.7): a user's name, or name and passcode.

Kerberos, SAML and JSON Web Tokens are not looked at: such a request counts as one without an identity.
"""

from __future__ import annotations

from collections.abc import Iterable
from threading import Lock
from typing import Final

from pynetdicom.association import Association
from pynetdicom.pdu_primitives import UserIdentityNegotiation

from dicom_node.passwords import NOBODY, HashedPassword
from dicom_node.settings.listener import User
from dicom_node.settings.section import secret_of
from engine.errors import SettingsError

_NAME: Final = 1
_NAME_AND_PASSCODE: Final = 2


class Users:
    """The users that may ask for an association.

    Parameters
    ----------
    users : iterable of User
        None at all: identities are not looked at, as the Standard allows.
    required : bool
        Whether a request without an identity is rejected.

    Raises
    ------
    SettingsError
        If a passcode's file cannot be read, or a hash is none.
    """

    def __init__(self, users: Iterable[User] = (), *, required: bool = False) -> None:
        self._passcodes = {user.name: _passcode_of(user) for user in users}
        self._required = required
        # A look at a passcode takes 16 MiB: who guesses with many connections is no faster, and takes no more memory.
        self._guess = Lock()

    def accept(self, association: Association) -> bool:
        """Whether a request's identity is accepted; the positive response, where one was asked for, is put beside."""
        request = association.requestor.user_identity
        if not self._passcodes:
            return True
        if request is None or request.user_identity_type not in (_NAME, _NAME_AND_PASSCODE):
            return not self._required
        name = (request.primary_field or b"").decode("utf-8", errors="replace")
        passcode = (request.secondary_field or b"").decode("utf-8", errors="replace")
        if not self._proves(name, passcode, named_only=request.user_identity_type == _NAME):
            return False
        if request.positive_response_requested:
            response = UserIdentityNegotiation()
            response.server_response = b""  # of length 0 for these two kinds (PS3.7 D.3.3.7.2)
            association.acceptor.add_negotiation_item(response)
        return True

    def _proves(self, name: str, passcode: str, *, named_only: bool) -> bool:
        known = self._passcodes.get(name)
        if named_only:
            return name in self._passcodes and known is None
        # Where nobody is known by it, the answer takes as long.
        with self._guess:
            return (known or NOBODY).matches(passcode) and known is not None


def _passcode_of(user: User) -> HashedPassword | None:
    """The user's passcode; None where the name alone is enough."""
    if user.passcode_file is not None:
        text = secret_of(user.passcode_file)
    elif user.passcode_hash is not None:
        text = user.passcode_hash.get_secret_value()
    else:
        return None
    if user.passcode_file is not None and not text.startswith("scrypt:"):
        return HashedPassword.of(text)
    try:
        return HashedPassword.parse(text)
    except ValueError:
        raise SettingsError(
            f"the passcode of dimse_users {user.name!r} is no hash", advice="medrega-pacs config passcode makes one"
        ) from None
