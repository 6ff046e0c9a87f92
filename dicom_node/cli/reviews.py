"""``reviews``: what people said of the model's findings, for quality work."""

from __future__ import annotations

from typing import Annotated

import typer

from dicom_node.cli.common import ConfigOption, examples, load_settings, open_ledger

app = typer.Typer(
    help="What people said of the findings.",
    no_args_is_help=True,
    epilog=examples("reviews export --jsonl > verdicts.jsonl"),
)


@app.callback()
def _group() -> None:
    """What people said of the findings."""


@app.command(epilog=examples("reviews export --jsonl > verdicts.jsonl", "reviews export --study 1.2.840.99.1"))
def export(
    jsonl: Annotated[bool, typer.Option("--jsonl", help="One JSON object a line; there is no other form.")] = True,  # noqa: ARG001 - said for who reads the script
    study: Annotated[str | None, typer.Option(metavar="UID", help="Of this study alone.")] = None,
    config: ConfigOption = None,
) -> None:
    """Write every verdict on a finding, a line each, oldest first: no patient's data and no reviewer's words."""
    import json

    from dicom_node.audit import Action, AuditEvent, Trail, this_person

    with open_ledger(config) as ledger:
        reviews = list(ledger.reviews.all(study))
    latest = {(review.study_instance_uid, review.run): review.number for review in reviews}
    count = 0
    for review in reviews:
        told = {
            "study_instance_uid": review.study_instance_uid,
            "run": review.run,
            "review": review.number,
            "superseded": review.number < latest[review.study_instance_uid, review.run],
            "at": review.at.isoformat(),
            "account": review.account,
        }
        for verdict in review.verdicts:
            typer.echo(json.dumps(told | dict(verdict), ensure_ascii=False, sort_keys=True))
            count += 1
    event = AuditEvent(Action.VERDICTS_EXPORTED, this_person(), study_uid=study, detail=f"{count} verdicts")
    Trail.of(load_settings(config)).write(event)
