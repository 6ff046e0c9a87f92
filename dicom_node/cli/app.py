"""The application: its commands, and how errors and Ctrl-C end it. Exit status 0 done, 1 failed, 2 wrong usage.

Commands import what they need when they run, so that ``--help`` and ``version`` answer at once.
"""

from __future__ import annotations

import logging
import sys
import warnings
from importlib.metadata import version as installed_version

import typer

from dicom_node.cli import (
    audit,
    commission,
    config,
    console,
    demo,
    destinations,
    doctor,
    engine,
    export,
    ledger,
    network,
    node,
    plan,
    pull,
    purge,
    queue,
    reading,
    reviews,
    route,
    studies,
    worklist,
)
from dicom_node.cli.common import examples, print_error
from dicom_node.process import leave_no_core
from engine.errors import MedregaError

_INTERRUPTED = 130  # what typer makes of Ctrl-C; here it is one of three, failed

app = typer.Typer(
    name="medrega-pacs",
    epilog=examples("up", "read study/ --out results", "demo"),
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (node, reading, network, pull, worklist, studies, queue, export, purge, doctor, commission, demo):
    module.register(app)
app.add_typer(audit.app, name="audit")
app.add_typer(config.app, name="config")
app.add_typer(console.app, name="console")
app.add_typer(destinations.app, name="destinations")
app.add_typer(engine.app, name="engine")
app.add_typer(ledger.app, name="ledger")
app.add_typer(plan.app, name="plan")
app.add_typer(reviews.app, name="reviews")
app.add_typer(route.app, name="route")


@app.callback()
def quiet() -> None:
    """Reads imaging studies with MedRegA and sends the findings home as DICOM SR and SEG."""
    # Commands report by themselves. Libraries' warnings and messages quote values of data sets; a node's own log,
    # which withholds them, is set up by the commands that run one.
    warnings.simplefilter("ignore")
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.NullHandler())


@app.command(epilog=examples("version"))
def version() -> None:
    """Print the version."""
    typer.echo(installed_version("medrega-pacs"))


def main() -> None:
    """Run the command line and end the process with its exit status."""
    leave_no_core()
    try:
        app()
    except MedregaError as error:
        print_error(str(error), error.advice)
        sys.exit(1)
    except SystemExit as ended:
        sys.exit(1 if ended.code == _INTERRUPTED else ended.code)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away, as `head` does; nobody is left to tell
        sys.exit(1)
    except OSError as error:
        place = f": {error.filename}" if error.filename else ""
        print_error(f"{error.strerror or type(error).__name__}{place}", "check the disk, the path and its permissions")
        sys.exit(1)
    except Exception as error:  # the outermost boundary: a traceback would quote values of data sets
        from dicom_node.logs import describe

        said = describe(error)
        place = " < ".join(reversed(said["trace"][-3:]))
        print_error(f"internal error {said['type']} {said.get('message', '')}".rstrip(), f"please report it: {place}")
        sys.exit(1)
