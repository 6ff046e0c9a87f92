"""OHIF on loopback with Orthanc's DICOMweb behind it on the same origin, as a hospital's proxy would serve it."""

from __future__ import annotations

import base64
import hashlib
import json
import mimetypes
import shutil
import subprocess
import tarfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

VERSION = "3.13.2"
INTEGRITY = "sha512-WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA=="
CONFIG = {
    "routerBasename": "/",
    "showStudyList": True,
    "extensions": [],
    "modes": [],
    "showLoadingIndicator": True,
    "showWarningMessageForCrossOrigin": False,
    "showCPUFallbackMessage": False,
    "investigationalUseDialog": {"option": "never"},
    "maxNumberOfWebWorkers": 1,
    "useSharedArrayBuffer": "FALSE",
    "defaultDataSourceName": "dicomweb",
    "dataSources": [
        {
            "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
            "sourceName": "dicomweb",
            "configuration": {
                "friendlyName": "Orthanc",
                "name": "orthanc",
                "wadoUriRoot": "/dicom-web",
                "qidoRoot": "/dicom-web",
                "wadoRoot": "/dicom-web",
                "qidoSupportsIncludeField": False,
                "imageRendering": "wadors",
                "thumbnailRendering": "wadors",
                "omitQuotationForMultipartRequest": True,
                "bulkDataURI": {"enabled": True},
            },
        }
    ],
}


class MissingViewerError(Exception):
    """Something that the viewer needs is not on this machine; the message says how to get it."""


def ohif_folder(cache: Path) -> Path:
    """The site inside the npm package, fetched once; its digest is that of the registry's release.

    Raises
    ------
    MissingViewerError
        Without npm, without network, or with a package that is not the one known.
    """
    folder = cache / f"ohif-{VERSION}"
    site = folder / "package" / "dist"
    if (folder / "complete").exists():
        return site
    npm = shutil.which("npm")
    if npm is None:
        raise MissingViewerError(f"npm is needed to fetch @ohif/app {VERSION}: install Node.js (nodejs, npm)")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    package = folder / f"ohif-app-{VERSION}.tgz"
    command = [npm, "pack", "--silent", "--pack-destination", str(folder), f"@ohif/app@{VERSION}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode or not package.exists():
        raise MissingViewerError(f"npm could not fetch @ohif/app {VERSION}: {done.stderr.strip()[-500:]}")
    digest = base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode("ascii")
    if f"sha512-{digest}" != INTEGRITY:
        package.unlink()
        raise MissingViewerError(f"@ohif/app {VERSION} is not the package known: its digest is sha512-{digest}")
    with tarfile.open(package) as archive:
        archive.extractall(folder, filter="data")
    package.unlink()
    (folder / "complete").touch()
    return site


@contextmanager
def serve(site: Path, orthanc: str) -> Iterator[str]:
    """Serve the site at ``/`` and Orthanc at ``/dicom-web``; gives the address."""
    config = f"window.config = {json.dumps(CONFIG)};".encode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Say nothing; pytest keeps what is said."""

        def do_GET(self) -> None:
            status, kind, body = self._dicom_web() if self.path.startswith("/dicom-web/") else self._file()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            if not self.path.startswith(("/dicom-web/", "/app-config.js")):
                self.send_header("Cache-Control", "max-age=3600")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _dicom_web(self) -> tuple[int, str, bytes]:
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
            if name == "/app-config.js":
                return 200, "text/javascript", config
            path = (site / name.lstrip("/")).resolve()
            if not (path.is_file() and path.is_relative_to(site.resolve())):
                path = site / "index.html"  # the routes are the page's own
            kind = "application/wasm" if path.suffix == ".wasm" else mimetypes.guess_type(path.name)[0]
            return 200, kind or "application/octet-stream", path.read_bytes()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, name="ohif-site")
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
