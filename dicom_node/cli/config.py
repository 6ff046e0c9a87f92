"""``config``: the effective settings, and whether they are right."""

from __future__ import annotations

from typing import Annotated

import typer

from dicom_node.cli.common import ConfigOption, console, examples, load_settings, print_error
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
    from dicom_node.doctor.examination import examine
    from dicom_node.doctor.files import file_checks

    settings = load_settings(config)
    failed = [finding for finding in examine(file_checks(settings)) if finding.outcome == "fail"]
    for finding in failed:
        print_error(finding.words, finding.remedy)
    if failed:
        raise typer.Exit(1)
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
