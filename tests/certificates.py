"""Certificates as a hospital's own authority makes them, by openssl."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from dicom_node.settings import TlsSettings

_CONFIG = """
[req]
distinguished_name = name
prompt = no
[name]
CN = {name}
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
[peer]
basicConstraints = CA:FALSE
subjectAltName = {alternative}
"""


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, in files."""

    certificate: Path
    key: Path

    def tls(self, ca: Path | None, **settings: object) -> TlsSettings:
        """Settings of whoever shows this certificate."""
        return TlsSettings(certificate=self.certificate, key=self.key, ca=ca, **settings)  # type: ignore[arg-type]


class Authority:
    """An authority with a self-signed certificate, `ca`, in a folder that it makes."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._own = self._request(name, "DNS:" + name)
        self.ca = self._own.certificate
        self._openssl("x509", "-req", "-in", folder / f"{name}.csr", "-signkey", self._own.key, "-days", "30",
                      "-extfile", folder / f"{name}.cnf", "-extensions", "authority", "-out", self.ca)  # fmt: skip

    def issue(self, name: str, alternative: str = "IP:127.0.0.1,DNS:localhost", *, days: int = 30) -> Certificate:
        """A certificate for a peer; of negative days it has expired."""
        made = self._request(name, alternative)
        command = ["x509", "-req", "-in", self._folder / f"{name}.csr", "-CA", self.ca, "-CAkey", self._own.key,
                   "-CAcreateserial", "-days", str(days), "-extfile", self._folder / f"{name}.cnf",
                   "-extensions", "peer", "-out", made.certificate]  # fmt: skip
        self._openssl(*command)
        return made

    def _request(self, name: str, alternative: str) -> Certificate:
        folder = self._folder
        config = folder / f"{name}.cnf"
        config.write_text(_CONFIG.format(name=name, alternative=alternative))
        made = Certificate(folder / f"{name}.pem", folder / f"{name}.key")
        self._openssl("req", "-new", "-newkey", "rsa:2048", "-nodes", "-config", config, "-keyout", made.key,
                      "-out", folder / f"{name}.csr")  # fmt: skip
        return made

    @staticmethod
    def _openssl(*arguments: object) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)
