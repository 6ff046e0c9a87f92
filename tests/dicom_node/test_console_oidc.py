"""Signing in by OpenID Connect, with a small provider that signs, and checks the code's verifier (RFC 7636)."""

from __future__ import annotations

import base64
import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from console_client import Console
from joserfc import jwt
from joserfc.jwk import RSAKey
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route


class Provider:
    """A provider that knows one person, whose claims a test may change."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.key = RSAKey.generate_key(2048, {"kid": "1"})
        self.claims: dict[str, Any] = {"preferred_username": "kim", "groups": ["radiology"]}
        self.instead: dict[str, bytes] = {}
        """What is answered at a place instead of what belongs there."""
        self._asked: dict[str, str] = {}
        routes = [
            Route("/.well-known/openid-configuration", self.metadata),
            Route("/authorize", self.authorize),
            Route("/token", self.token, methods=["POST"]),
            Route("/keys", lambda _: JSONResponse({"keys": [self.key.as_dict(private=False)]})),
        ]
        application = Starlette(routes=routes)
        application.add_middleware(BaseHTTPMiddleware, dispatch=self._answer)
        config = uvicorn.Config(application, lifespan="off", log_config=None, ws="none", loop="asyncio")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))
        self._thread.start()

    async def _answer(self, request: Request, otherwise: RequestResponseEndpoint) -> Response:
        said = self.instead.get(request.url.path)
        return await otherwise(request) if said is None else Response(said, media_type="application/json")

    def metadata(self, _request: Request) -> Response:
        places = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "keys"}
        return JSONResponse({"issuer": self.url} | {name: f"{self.url}/{path}" for name, path in places.items()})

    def authorize(self, request: Request) -> Response:
        self._asked = dict(request.query_params)
        return RedirectResponse(f"{self._asked['redirect_uri']}?code=c0de&state={self._asked['state']}")

    async def token(self, request: Request) -> Response:
        form = await request.form()
        digest = hashlib.sha256(str(form["code_verifier"]).encode()).digest()
        assert base64.urlsafe_b64encode(digest).decode().rstrip("=") == self._asked["code_challenge"]
        now = int(time.time())
        claims = {"iss": self.url, "aud": "medrega-pacs", "sub": "1", "iat": now, "exp": now + 60}
        signed = jwt.encode(
            {"alg": "RS256", "kid": "1"}, claims | {"nonce": self._asked["nonce"]} | self.claims, self.key
        )
        return JSONResponse({"access_token": "a", "token_type": "Bearer", "id_token": signed})

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()


NONSENSE = (
    b"",
    b"<html>a proxy's page of errors</html>",
    b"\xff\xfe",
    b"[]",
    b"null",
    b"7",
    b"{}",
    b"[" * 100_000,
    b'{"keys": 5, "id_token": 5, "authorization_endpoint": 5, "token_endpoint": 5, "jwks_uri": 5}',
    b'{"keys": [5], "id_token": "a.b.c", "token_endpoint": "file:"}',
    b'{"keys": [{"kty": "RSA", "kid": "1"}], "error": [], "access_token": {}, "authorization_endpoint": "http://[::"}',
    b'{"keys": [{"kty": "oct", "k": "", "kid": "1"}], "access_token": "a", "id_token": "eyJhbGciOiJub25lIn0.e30."}',
)


@pytest.fixture
def provider() -> Iterator[Provider]:
    provider = Provider()
    yield provider
    provider.close()


@pytest.fixture
def console(tmp_path: Path, provider: Provider) -> Iterator[Console]:
    (tmp_path / "secret").write_text("s3cret")
    oidc = {"issuer": provider.url, "password_file": tmp_path / "secret", "reviewers": ["radiology"]}
    console = Console(tmp_path, oidc=oidc)
    yield console
    console.close()


def test_who_is_in_a_group_signs_in_with_its_role(console: Console) -> None:
    browser = console.client()
    assert "/sign-in/oidc" in browser.get("/").text
    assert "<bdi>kim</bdi> (reviewer)" in browser.get("/sign-in/oidc").text


@pytest.mark.parametrize(
    ("claims", "status"),
    [
        ({"groups": ["kitchen"]}, 403),
        ({"preferred_username": "<b>"}, 403),
        ({"iss": "https://evil.example"}, 502),
        ({"aud": "another"}, 502),
        ({"nonce": "of another time"}, 502),
        ({"exp": 1}, 502),
    ],
)
def test_others_do_not(console: Console, provider: Provider, claims: dict[str, Any], status: int) -> None:
    provider.claims |= claims
    browser = console.client()
    assert browser.get("/sign-in/oidc").status_code == status
    assert browser.get("/", follow_redirects=False).status_code == 303


@pytest.mark.parametrize("place", ["/.well-known/openid-configuration", "/token", "/keys"])
def test_a_provider_that_answers_nonsense_signs_nobody_in_and_breaks_nothing(
    tmp_path: Path, provider: Provider, place: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "secret").write_text("s3cret")
    for number, said in enumerate(NONSENSE):
        provider.instead = {place: said}
        own = {"issuer": provider.url, "password_file": tmp_path / "secret", "reviewers": ["radiology"]}
        console = Console(tmp_path / str(number), oidc=own)  # each asks anew
        try:
            browser = console.client()
            assert browser.get("/sign-in/oidc").status_code in (400, 403, 502), said[:100]
            assert browser.get("/", follow_redirects=False).status_code == 303
        finally:
            console.close()
    assert "unexpected error" not in "".join(capfd.readouterr())


def test_what_another_browser_has_begun_is_not_ended_here(console: Console) -> None:
    begun = console.client().get("/sign-in/oidc", follow_redirects=False).headers["location"]
    browser = console.client()
    assert browser.get(begun).status_code == 400


def test_who_may_no_more_is_out_in_hours_or_at_once(console: Console) -> None:
    browsers = [console.client(), console.client()]
    for browser in browsers:
        answer = browser.get("/sign-in/oidc", follow_redirects=False)
        answer = browser.get(browser.get(answer.headers["location"], follow_redirects=False).headers["location"],
                             follow_redirects=False)  # fmt: skip
        assert "Max-Age=14400;" in answer.headers["set-cookie"]
        assert browser.get("/", follow_redirects=False).status_code == 200
    assert console.ledger.accounts.close_sessions("kim") == 2
    assert browsers[0].get("/", follow_redirects=False).status_code == 303


@pytest.mark.parametrize(("verified", "status"), [(True, 200), (False, 403), ("true", 403), (None, 403)])
def test_an_address_that_anybody_may_write_is_nobodys_name(
    tmp_path: Path, provider: Provider, verified: Any, status: int
) -> None:
    (tmp_path / "secret").write_text("s3cret")
    own = {"issuer": provider.url, "password_file": tmp_path / "secret", "reviewers": ["radiology"]}
    console = Console(tmp_path, oidc=own | {"name_claim": "email"})
    provider.claims |= {"email": "kim@hospital.example"} | ({} if verified is None else {"email_verified": verified})
    try:
        assert console.client().get("/sign-in/oidc").status_code == status
    finally:
        console.close()


def test_a_cookie_of_brackets_is_nothing(console: Console) -> None:
    deep = base64.urlsafe_b64encode(b"[" * 8000).decode()
    answer = console.client().get("/sign-in/oidc/back", headers={"Cookie": f"medrega-oidc={deep}"})
    assert answer.status_code == 400
