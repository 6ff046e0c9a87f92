"""``config``: the effective settings, and whether they are right."""

from __future__ import annotations

from typing import Annotated

import typer

from dicom_node.cli.common import ConfigOption, console, examples, load_settings
from engine.errors import SettingsError

app = typer.Typer(help="Show or check the settings.", no_args_is_help=True, epilog=examples("config show"))


@app.command(epilog=examples("config show", "config show --config /etc/medrega-pacs.toml", "config show --reference"))
def show(
    config: ConfigOption = None,
    reference: Annotated[
        bool, typer.Option("--reference", help="Describe every setting (Markdown) instead of showing values.")
    ] = False,
) -> None:
    """Print the settings in effect, from file and environment, as TOML with secrets hidden."""
    from dicom_node.settings.page import as_toml, reference_page

    if reference:
        typer.echo(reference_page(), nl=False)
    else:
        typer.echo(as_toml(load_settings(config)), nl=False)


@app.command(epilog=examples("config check --config medrega-pacs.toml"))
def check(config: ConfigOption = None) -> None:
    """Check the settings; exit status 1 and the reason if one is wrong."""
    from dicom_node.dicomweb.client import Credentials
    from dicom_node.dicomweb.users import Users as DicomwebUsers
    from dicom_node.dimse.tls import client_context, server_context
    from dicom_node.dimse.users import Users
    from dicom_node.ledger import ledger_url
    from dicom_node.ledger.database import Database
    from dicom_node.queue.broker import broker_url
    from dicom_node.reading.results import output_profiles
    from dicom_node.routing.router import routes_of
    from dicom_node.settings.dicomweb import FrontSettings
    from dicom_node.settings.sources import Endpoint
    from dicom_node.worklist.performer import check_plans
    from engine.gate import load_calibration
    from engine.plan import load_plans
    from engine.refine import load_refiner
    from engine.runtime import model_path

    settings = load_settings(config)
    for server in (settings.listener, settings.dicomweb):
        if server.tls is not None:
            server_context(server.tls)
    endpoints: tuple[Endpoint, ...] = (*settings.destinations, *settings.sources, *settings.worklists)
    peers: tuple[Endpoint | FrontSettings, ...] = (*endpoints, settings.front)
    for tls in (*(peer.tls for peer in peers), *(peer.tls for peer in settings.commitment_peers)):
        if tls is not None:
            client_context(tls)
    for peer in peers:
        Credentials.read(peer.user, peer.password_file, peer.token_file)
    for worklist in settings.worklists:
        check_plans(settings, worklist)
    Users(settings.dimse_users)
    DicomwebUsers(settings.dicomweb_users)
    broker_url(settings)
    Database(ledger_url(settings)).close()
    output_profiles(settings.destinations)
    routes_of(settings)
    load_plans(settings.engine.plans)
    load_calibration(settings.engine.calibration)
    load_refiner(settings.engine.refiner)
    if not model_path(settings.engine.model).exists():
        raise SettingsError(
            f"engine.model: there is no model at {settings.engine.model}",
            advice="a name that ships (phantom) or a folder; a machine that only listens needs none",
        )
    names = ", ".join(destination.name for destination in settings.destinations) or "none"
    listener = settings.listener
    console().print(
        f"The settings are right: {listener.aet}@{listener.host}:{listener.port}, "
        f"engine {settings.engine.runtime} with {settings.engine.model}, destinations: {names}"
    )


@app.command(epilog=examples("config passcode", "config passcode < secret.txt > hash.txt"))
def passcode() -> None:
    """Ask for a password and print its hash, for passcode_hash, passcode_file and password_file of users."""
    import getpass
    import sys

    from dicom_node.passwords import HashedPassword

    if sys.stdin.isatty():
        secret = getpass.getpass("Password: ")
        if getpass.getpass("Again: ") != secret:
            raise SettingsError("the two are not the same")
    else:
        secret = sys.stdin.readline().rstrip("\r\n")
    if not secret:
        raise SettingsError("an empty password protects nothing")
    typer.echo(str(HashedPassword.of(secret)))
