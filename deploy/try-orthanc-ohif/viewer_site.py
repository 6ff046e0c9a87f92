"""A viewer on loopback with Orthanc behind it on the same origin, as a hospital's proxy would serve them."""

from __future__ import annotations

import mimetypes
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@contextmanager
def serve(
    site: Path, orthanc: str, pages: Mapping[str, str] | None = None, proxied: str = "/dicom-web/", port: int = 0
) -> Iterator[str]:
    """Serve a viewer at ``/`` and Orthanc below the prefix `proxied`; gives the address.

    Parameters
    ----------
    site : Path
        The viewer's files; what is not among them is its ``index.html``, as routes are the page's own.
    orthanc : str
        Its address.
    pages : mapping of str to str, optional
        Texts that stand for files of the site, by path.
    proxied : str
    port : int
        Any that is free without.
    """
    texts = {name: text.encode() for name, text in (pages or {}).items()}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Say nothing: each page asks for a thousand files."""

        def do_GET(self) -> None:
            status, kind, body = self._orthanc() if self.path.startswith(proxied) else self._file()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            if not self.path.startswith(proxied) and self.path not in texts:
                self.send_header("Cache-Control", "max-age=3600")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _orthanc(self) -> tuple[int, str, bytes]:
            # Orthanc writes its answers' addresses (bulk data) for the host that was asked.
            headers = {"Accept": self.headers.get("Accept", "*/*"), "Host": self.headers["Host"]}
            request = urllib.request.Request(f"{orthanc}{self.path}", headers=headers)  # noqa: S310 - loopback
            try:
                with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
                    return answer.status, answer.headers["Content-Type"], answer.read()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, "text/plain", error.read()

        def _file(self) -> tuple[int, str, bytes]:
            name = self.path.split("?")[0]
            kind = "application/wasm" if name.endswith(".wasm") else mimetypes.guess_type(name)[0]
            if name in texts:
                return 200, kind or "text/html", texts[name]
            path = (site / name.lstrip("/")).resolve()
            if not (path.is_file() and path.is_relative_to(site.resolve())):
                path, kind = site / "index.html", "text/html"
            return 200, kind or "application/octet-stream", path.read_bytes()

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, name="viewer-site")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
