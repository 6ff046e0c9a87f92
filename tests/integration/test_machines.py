"""A node on several machines: a PostgreSQL and a Redis of the site's own over TLS, and readers on other hosts.

The hosts are network namespaces with process ids of their own, so that only the network tells them of each other.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import machines
import pytest
from peers import ENDED, SCRIPT, running, wait_until
from ports import free_port
from postgresql import PASSWORD, cluster
from pydicom import dcmread
from pydicom.uid import generate_uid

from dicom_node.dimse.scu import StoredFile
from dicom_node.ledger import Ledger, State
from engine.phantom.studies import write_phantoms

pytestmark = pytest.mark.skipif(not machines.can_be_made(), reason="network namespaces cannot be made: root is needed")
LEASE_SECONDS = 4


def certificate(folder: Path, address: str) -> tuple[Path, Path]:
    """A certificate of an address that vouches for itself, and its key."""
    paths = folder / "server.crt", folder / "server.key"
    subject = ["-subj", f"/CN={address}", "-addext", f"subjectAltName=IP:{address}"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", str(paths[1])]
    command = ["openssl", "req", "-x509", "-days", "2", "-out", str(paths[0]), *key, *subject]
    subprocess.run(command, check=True, capture_output=True)
    return paths


@dataclass
class Site:
    """The hosts of a site and what runs on them."""

    front: machines.Host
    readers: list[machines.Host]
    folder: Path
    config: Path
    ledger: Ledger
    port: int
    pacs: Path
    certificate: tuple[Path, Path]
    stack: ExitStack

    def start(self, host: machines.Host, part: str, config: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a part of the node on a host."""
        command = [sys.executable, "-m", "dicom_node.cli", part, "--config", config or self.config]
        log = self.folder / f"{host.name}-{part}.log"
        return self.stack.enter_context(host.running(command, log, self.folder))

    def log(self, host: machines.Host) -> str:
        return "".join(path.read_text(encoding="utf-8") for path in self.folder.glob(f"{host.name}-*.log"))

    def phantom(self, seed: int) -> Path:
        """A study of one image."""
        write_phantoms(self.folder / f"phantom{seed}", 1, seed)
        (path,) = (self.folder / f"phantom{seed}").rglob("*.dcm")
        return path

    def send(self, *paths: Path, to: str | None = None) -> str:
        """Send images of a study from the front's host, to it or to another; the study instance UID."""
        words = ["-xs", "-aec", "MEDREGA", to or self.front.address, str(self.port), *map(str, paths)]
        subprocess.run([*self.front.prefix, "/usr/bin/storescu", *words], check=True, capture_output=True)
        return str(dcmread(paths[0], stop_before_pixels=True).StudyInstanceUID)

    def state(self, study: str) -> State | None:
        return next((s.state for s in self.ledger.studies() if s.study_instance_uid == study), None)

    def arrivals(self) -> Counter[str]:
        """How often each object arrived at the PACS."""
        return Counter(StoredFile.open(path).sop_instance_uid for path in self.pacs.iterdir())


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        front, *readers = stack.enter_context(machines.hosts("front", "reader1", "reader2"))
        crt, key = certificate(tmp_path, front.address)
        secret = tmp_path / "password"
        secret.write_text(f"{PASSWORD}\n", encoding="ascii")
        database = stack.enter_context(cluster(front.address, front.prefix, (crt, key)))
        redis, pacs_port, port = free_port(), free_port(), free_port()
        options = {
            "--bind": front.address,
            "--port": "0",
            "--tls-port": str(redis),
            "--tls-cert-file": str(crt),
            "--tls-key-file": str(key),
            "--tls-ca-cert-file": str(crt),
            "--tls-auth-clients": "no",
            "--requirepass": PASSWORD,
            "--save": "",
            "--dir": str(tmp_path),
        }
        words = [word for pair in options.items() for word in pair]
        stack.enter_context(running([*front.prefix, "redis-server", *words], tmp_path / "redis.log"))
        pacs = tmp_path / "pacs"
        pacs.mkdir()
        storescp = ["/usr/bin/storescp", "--unique-filenames", "-od", str(pacs), "+xa", str(pacs_port)]
        stack.enter_context(running([*front.prefix, *storescp], tmp_path / "storescp.log"))
        script = tmp_path / "script.json"
        script.write_text(json.dumps(SCRIPT | {"delay_seconds": 0.5}), encoding="utf-8")
        config = tmp_path / "medrega-pacs.toml"
        query = f"sslmode=verify-full&sslrootcert={crt}"
        config.write_text(
            f"""
            [data]
            path = "{tmp_path / "data"}"
            minimum_free_mib = 1
            [listener]
            host = "0.0.0.0"
            port = {port}
            promiscuous = true
            [completion]
            quiet_seconds = 1.0
            [engine]
            runtime = "scripted"
            model = "{script}"
            [reading]
            lease_seconds = {LEASE_SECONDS}
            [sweeper]
            interval_seconds = 0.2
            [broker]
            url = "rediss://{front.address}:{redis}/0?ssl_ca_certs={crt}&ssl_cert_reqs=required"
            password_file = "{secret}"
            [ledger]
            url = "{database.url(password="")}?{query}"
            password_file = "{secret}"
            [[destinations]]
            name = "pacs"
            aet = "PACS"
            host = "{front.address}"
            port = {pacs_port}
            """,
            encoding="utf-8",
        )
        # A socket in the file system is reached from every namespace.
        ledger = Ledger(database.local_url)
        stack.callback(ledger.close)
        yield Site(front, readers, tmp_path, config, ledger, port, pacs, (crt, key), stack.enter_context(ExitStack()))


def changed(site: Site, name: str, old: str, new: str, more: str = "") -> Path:
    """The settings of a host on which something is otherwise."""
    content = site.config.read_text(encoding="utf-8")
    assert old in content
    path = site.folder / f"{name}.toml"
    path.write_text(content.replace(old, new) + more, encoding="utf-8")
    return path


def test_a_reader_that_is_cut_off_is_replaced_by_one_without_the_folder_and_nothing_comes_twice(site: Site) -> None:
    front, (first, second) = site.front, site.readers
    web, token = free_port(), site.folder / "token"
    token.write_text("0123456789abcdef0123456789abcdef\n", encoding="ascii")
    crt, key = site.certificate
    server = f"""
            [dicomweb]
            enabled = true
            host = "{front.address}"
            port = {web}
            tls = {{ certificate = "{crt}", key = "{key}", require_client = false }}
            [[dicomweb_users]]
            name = "GPU"
            token_file = "{token}"
            rights = ["retrieve", "work"]
            """
    client = f"""
            [front]
            url = "https://{front.address}:{web}"
            token_file = "{token}"
            tls = {{ ca = "{crt}" }}
            """
    lease = f"lease_seconds = {LEASE_SECONDS}"
    listening = changed(site, "front", "promiscuous = true", "promiscuous = true", server)
    delivering = changed(site, "delivery", lease, "concurrency = 0")
    apart = changed(site, "apart", lease, f'{lease}\npixels = "wado"', client)
    apart.write_text(apart.read_text().replace(str(site.folder / "data"), str(site.folder / "elsewhere")))
    # All at once, on an empty database: their migrations must not meet.
    listener = site.start(front, "listen", listening)
    for host, config, workers in ((front, delivering, 1), (first, site.config, 2)):
        site.start(host, "worker", config)
        wait_until(lambda h=host, n=workers: site.log(h).count("worker ready") == n, f"the workers of {host.name}")
    wait_until(lambda: "listening" in site.log(front), "the listener", listener)
    study = site.send(site.phantom(5))
    wait_until(lambda: site.state(study) is State.READING, "the first reader takes the study")
    first.cut_off()
    site.start(second, "worker", apart)
    wait_until(lambda: site.state(study) in ENDED, "the other reader reads it")
    record = site.ledger.study(study)
    assert record.runs[-1].state is State.DELIVERED, record.runs[-1].reason
    assert record.runs[0].attempts == 2
    assert '"attempt": 2' in site.log(second)
    assert not list((site.folder / "elsewhere").rglob("*.dcm")), "what was fetched is gone again"
    first.heal()
    # By asking, or because its connections ended meanwhile: how long the cut lasts is the machine's to say.
    gave_up = ("the run has become", "the ledger's database failed")
    wait_until(lambda: any(words in site.log(first) for words in gave_up), "the one that was cut off gives the run up")
    # The site is whole again: what comes now is read, by whichever.
    another = site.send(site.phantom(6))
    wait_until(lambda: site.state(another) in ENDED, "another study")
    results = [result.sop_instance_uid for uid in (study, another) for result in site.ledger.study(uid).results]
    assert site.arrivals() == Counter(results)


def test_two_listeners_on_two_hosts_receive_one_study_and_it_is_read_once(site: Site) -> None:
    reader = site.readers[0]
    for host in (site.front, reader):
        site.start(host, "listen")
    for host in (site.front, reader):
        wait_until(lambda host=host: "listening" in site.log(host), f"the listener of {host.name}")
    images = []
    for number in range(6):
        image = dcmread(site.phantom(5))
        image.InstanceNumber = number + 1
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        images.append(site.folder / f"{number}.dcm")
        image.save_as(images[-1])
    for number, path in enumerate(images):
        study = site.send(path, to=(site.front, reader)[number % 2].address)
    site.send(images[0], to=reader.address)  # once more, to the other one
    wait_until(lambda: site.state(study) is State.QUEUED, "the study is complete")
    record = site.ledger.study(study)
    assert [(run.number, run.instances) for run in record.runs] == [(1, 6)]
    assert record.conflicts == 0
    assert len(list((site.folder / "data" / "studies" / study).iterdir())) == 6
