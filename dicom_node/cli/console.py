"""``console``: the console alone, and the accounts of who may sign in to it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_node.cli.common import ConfigOption, console, examples, load_settings, open_ledger, operations
from engine.errors import NodeError

if TYPE_CHECKING:
    from dicom_node.ledger.accounts import Role

app = typer.Typer(
    help="Run the console alone beside a node's data folder, or see to its accounts.",
    epilog=examples("console", "console user add kim --role reviewer"),
    invoke_without_command=True,
)
user = typer.Typer(
    help="The accounts of who may sign in to the console.",
    epilog=examples("console user add kim --role reviewer", "console user list"),
    no_args_is_help=True,
)
app.add_typer(user, name="user")

NameArgument = Annotated[str, typer.Argument(help="Name of the account.")]
RoleOption = Annotated[
    str, typer.Option("--role", metavar="ROLE", help="viewer (sees) | reviewer (reviews) | administrator (changes).")
]


@app.callback()
def serve(context: typer.Context, config: ConfigOption = None) -> None:
    """Run the console alone beside a node's data folder, or see to its accounts."""
    if context.invoked_subcommand is not None:
        return
    from dicom_node.dicomweb.child import open_port
    from dicom_node.logs import set_up_logging
    from dicom_node.process import keep_files_to_ourselves

    keep_files_to_ourselves()
    settings = load_settings(config)
    set_up_logging(settings.log)
    from dicom_node.console import server

    with open_port(settings.console.host, settings.console.port, "console.port") as opened:
        console().print(f"Console at {settings.console.address}, Ctrl-C stops")
        server.serve(settings, opened)


@user.command(epilog=examples("console user add kim --role reviewer", "console user add kim < password.txt"))
def add(name: NameArgument, role: RoleOption = "viewer", config: ConfigOption = None) -> None:
    """Let somebody sign in; asks for the password, or reads it from standard input."""
    from dicom_node.audit import Action
    from dicom_node.console.accounts import check_name, hashed

    check_name(name)
    checked = _role(role)
    # The first account is made before the node first runs.
    load_settings(config).data.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    with operations(config) as node:
        node.ledger.accounts.add(name, checked, hashed(_password()))
        node.note(Action.ACCOUNT_ADDED, detail=f"{name}, {checked}")
    console().print(f"{name} may sign in as {checked}")


@user.command("list", epilog=examples("console user list"))
def list_accounts(config: ConfigOption = None) -> None:
    """List the accounts and their roles."""
    with open_ledger(config) as ledger:
        found = ledger.accounts.all()
    for account in found:
        typer.echo(f"{account.name:<24} {account.role:<14} since {account.created_at.astimezone():%Y-%m-%d}")
    if not found:
        console().print("no accounts: `medrega-pacs console user add NAME` makes one")


@user.command(epilog=examples("console user remove kim"))
def remove(name: NameArgument, config: ConfigOption = None) -> None:
    """Remove an account; whoever is signed in with it is signed out."""
    from dicom_node.audit import Action

    with operations(config) as node:
        node.ledger.accounts.remove(name)
        node.note(Action.ACCOUNT_REMOVED, detail=name)
    console().print(f"{name} may sign in no more")


@user.command(epilog=examples("console user passwd kim"))
def passwd(name: NameArgument, config: ConfigOption = None) -> None:
    """Set an account's password; whoever is signed in with it is signed out, whoever was locked out may try again."""
    from dicom_node.audit import Action
    from dicom_node.console.accounts import change_password

    with operations(config) as node:
        change_password(node.ledger, name, _password())
        node.note(Action.ACCOUNT_CHANGED, detail=f"{name}, password")
    console().print(f"{name} has a new password")


@user.command(epilog=examples("console user role kim administrator"))
def role(
    name: NameArgument,
    to: Annotated[str, typer.Argument(metavar="ROLE", help="viewer | reviewer | administrator.")],
    config: ConfigOption = None,
) -> None:
    """Give an account another role, from its next page on."""
    from dicom_node.audit import Action

    checked = _role(to)
    with operations(config) as node:
        node.ledger.accounts.change(name, role=checked)
        node.note(Action.ACCOUNT_CHANGED, detail=f"{name}, {checked}")
    console().print(f"{name} is {checked}")


@user.command("sign-out", epilog=examples("console user sign-out kim"))
def sign_out(name: NameArgument, config: ConfigOption = None) -> None:
    """End all of somebody's sessions, also of who has signed in by the provider of the settings."""
    from dicom_node.audit import Action

    with operations(config) as node:
        ended = node.ledger.accounts.close_sessions(name)
        node.note(Action.ACCOUNT_CHANGED, detail=f"{name}, {ended} sessions ended")
    console().print(f"{name} is signed out ({ended} {'session' if ended == 1 else 'sessions'})")


def _role(name: str) -> Role:
    from dicom_node.ledger.accounts import Role

    if name not in list(Role):
        raise typer.BadParameter(f"{name!r} is no role; there are {', '.join(Role)}", param_hint="ROLE")
    return Role(name)


def _password() -> str:
    if sys.stdin.isatty():
        password: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
        return password
    password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise NodeError("standard input holds no password", advice="echo it in, or run the command in a terminal")
    return password
