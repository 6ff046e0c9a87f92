"""``send`` and ``echo``: this machine as an SCU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError

from dicom_node.cli.common import (
    ConfigOption,
    console,
    examples,
    find_peer,
    load_settings,
    print_error,
    progress,
    report_refused,
)
from engine.errors import SettingsError

if TYPE_CHECKING:
    import ssl

    from dicom_node.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(epilog=examples("send study/ --to pacs", "send a.dcm b.dcm --to MEDREGA@127.0.0.1:11112"))(send)
    secured = "echo PACS@pacs.example:2762 --tls-ca ca.pem --tls-certificate node.pem --tls-key node.key"
    app.command(epilog=examples("echo pacs", "echo MEDREGA@127.0.0.1:11112", secured))(echo)


PeerHelp = "A destination's name, or AET@HOST:PORT."
TlsOption = Annotated[
    bool, typer.Option("--tls", help="Over TLS, with the certificates in the tls table of the settings.")
]
CaOption = Annotated[
    Path | None,
    typer.Option("--tls-ca", metavar="FILE", help="Over TLS; authorities that the peer's must be of (PEM)."),
]
CertificateOption = Annotated[
    Path | None, typer.Option("--tls-certificate", metavar="FILE", help="Over TLS; our certificate (PEM).")
]
KeyOption = Annotated[
    Path | None, typer.Option("--tls-key", metavar="FILE", help="Its key, where it is not in the same file.")
]
VerifyOption = Annotated[
    str | None, typer.Option("--tls-verify", metavar="full|ca|none", help="Over TLS; what is asked of the peer's.")
]


def _tls_context(to: str, settings: Settings, *, shared: bool, **given: Path | str | None) -> ssl.SSLContext | None:
    """As the command says, else as the destination's settings do; None for no TLS."""
    from dicom_node.dimse.tls import client_context
    from dicom_node.settings import TlsSettings

    tls = settings.tls if shared else None
    if tls is None and "@" not in to:
        tls = settings.destination(to).tls
    said = {name: value for name, value in given.items() if value is not None}
    if said:
        try:
            tls = TlsSettings(**((tls or TlsSettings()).model_dump() | said))
        except ValidationError as error:
            reasons = "; ".join(item["msg"].removeprefix("Value error, ") for item in error.errors())
            raise SettingsError(f"the options for TLS are wrong: {reasons}") from None
    return client_context(tls) if tls is not None else None


def send(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", exists=True, help="Files or folders.")],
    to: Annotated[str, typer.Option("--to", metavar="NAME|AET@HOST:PORT", help=PeerHelp)],
    tls: TlsOption = False,
    tls_ca: CaOption = None,
    tls_certificate: CertificateOption = None,
    tls_key: KeyOption = None,
    tls_verify: VerifyOption = None,
    config: ConfigOption = None,
) -> None:
    """Send DICOM files to a peer by C-STORE, each as it is stored."""
    from dicom_node.dimse import scu

    settings = load_settings(config)
    peer = find_peer(to, settings)
    context = _tls_context(
        to, settings, shared=tls, ca=tls_ca, certificate=tls_certificate, key=tls_key, verify=tls_verify
    )
    files, refused = scu.find_files(paths)
    named = report_refused(refused, paths)
    if not files:
        print_error("there is nothing to send")
        raise typer.Exit(1)
    with progress() as bar:
        task = bar.add_task(f"Sending to {peer.aet}", total=len(files))
        results = scu.send(files, peer, settings.listener.aet, tls=context, on_result=lambda _: bar.advance(task))
    failed = [result for result in results if not result.ok]
    for result in failed:
        print_error(f"{result.file.path}: {result.reason}")
    for result in results:
        if result.ok and result.reason:
            print_error(f"{result.file.path}: stored with a warning, {result.reason}")
    console().print(f"{len(results) - len(failed)} of {len(results)} files stored at {peer}")
    if failed or named:
        raise typer.Exit(1)


def echo(
    peer: Annotated[str, typer.Argument(metavar="NAME|AET@HOST:PORT", help=PeerHelp)],
    tls: TlsOption = False,
    tls_ca: CaOption = None,
    tls_certificate: CertificateOption = None,
    tls_key: KeyOption = None,
    tls_verify: VerifyOption = None,
    config: ConfigOption = None,
) -> None:
    """Ask a peer by C-ECHO whether it is there."""
    from dicom_node.dimse import scu

    settings = load_settings(config)
    found = find_peer(peer, settings)
    context = _tls_context(
        peer, settings, shared=tls, ca=tls_ca, certificate=tls_certificate, key=tls_key, verify=tls_verify
    )
    seconds = scu.echo(found, settings.listener.aet, tls=context)
    console().print(f"{found} answered in {seconds * 1000:.0f} ms")
