"""Sessions: the cookie that says who asks, and the token that says that the page itself does (CSRF).

The cookie holds 256 bits that nobody guesses; the ledger holds their hash. Before somebody signs in there is such a
cookie too, known to nobody, for the token of the form to sign in.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import timedelta
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from dicom_node.ledger import Ledger
from dicom_node.ledger.accounts import Role, SignedIn
from dicom_node.settings import Settings

_LONGEST: Final = 128


class Sessions:
    """The console's sessions.

    Parameters
    ----------
    settings : Settings
    ledger : Ledger
    """

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._ledger = ledger
        self._secure = settings.console.is_secure
        # With the prefix, no other host of the same domain can set it (RFC 6265bis 4.1.3.2).
        self.cookie = "__Host-medrega" if self._secure else "medrega"
        self._idle = timedelta(minutes=settings.console.idle_minutes)
        self._lasts = timedelta(hours=settings.console.session_hours)
        self._provided = min(self._lasts, timedelta(hours=settings.oidc.session_hours))

    def who(self, request: Request) -> SignedIn | None:
        """Who asks."""
        token = self._token(request)
        return self._ledger.accounts.session(_hash(token), self._idle) if token else None

    def begin(self, request: Request, response: Response, name: str, role: Role | None = None) -> None:
        """Sign somebody in, with a role if a provider vouches for it; a token from before is of no use any more."""
        self.end(request)
        token = secrets.token_urlsafe(32)
        lasts = self._lasts if role is None else self._provided
        self._ledger.accounts.open_session(_hash(token), name, lasts, role)
        self._set(response, token, lasts)

    def end(self, request: Request) -> None:
        """Sign somebody out."""
        if token := self._token(request):
            self._ledger.accounts.close_session(_hash(token))

    def form_token(self, request: Request) -> str:
        """What a form of this browser must bring along; makes a cookie for who has none, set by `keep`."""
        token = self._token(request)
        if not token:
            request.state.new_token = token = getattr(request.state, "new_token", secrets.token_urlsafe(32))
        return _form_token(token)

    def keep(self, request: Request, response: Response) -> None:
        """Set the cookie that `form_token` has made."""
        if token := getattr(request.state, "new_token", ""):
            self._set(response, token, self._lasts)

    async def check_form(self, request: Request) -> None:
        """Refuse a request that another site's page has sent: no token in the form, nor in the header.

        Raises
        ------
        HTTPException
        """
        given = request.headers.get("x-csrf-token") or str((await request.form()).get("csrf", ""))
        token = self._token(request)
        if not token or not hmac.compare_digest(given.encode(), _form_token(token).encode()):
            raise HTTPException(403, "The page was too old: go back, load it again, and try once more.")

    def seal(self, request: Request, words: str) -> str:
        """Words for an address, which histories and proxies' logs keep, as only this session reads them."""
        return urlsafe_b64encode(_cipher(self._token(request)).encrypt(words.encode(), None)).decode() if words else ""

    def unseal(self, request: Request, sealed: str) -> str:
        """Words that `seal` gave; empty where another session did."""
        try:
            return _cipher(self._token(request)).decrypt(urlsafe_b64decode(sealed), None).decode() if sealed else ""
        except (InvalidTag, ValueError):
            return ""

    def set(self, response: Response, name: str, value: str, seconds: int) -> None:
        """Set another cookie, as safe as the session's."""
        response.set_cookie(name, value, max_age=seconds, path="/", secure=self._secure, httponly=True, samesite="lax")

    def _set(self, response: Response, token: str, lasts: timedelta) -> None:
        # Lax, since a provider's way back here is a link from another site; state is changed by POST alone.
        self.set(response, self.cookie, token, int(lasts.total_seconds()))

    def _token(self, request: Request) -> str:
        token = request.cookies.get(self.cookie, "")
        return token if len(token) <= _LONGEST else ""


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _cipher(token: str) -> AESSIV:
    return AESSIV(hmac.digest(token.encode(), b"words", hashlib.sha512))


def _form_token(token: str) -> str:
    return hmac.new(token.encode(), b"form", hashlib.sha256).hexdigest()
