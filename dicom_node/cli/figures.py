"""``engine evaluate`` and ``engine bench``: how well and how fast a model answers."""

from __future__ import annotations

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_node.cli.common import console, print_error, progress

if TYPE_CHECKING:
    from engine.evaluation import Score


class RuntimeKind(StrEnum):
    """Runtimes that a question can be asked with."""

    ONNX = "onnx"
    TORCH = "torch"
    TENSORRT_LLM = "tensorrt_llm"


ModelOption = Annotated[str, typer.Option("--model", metavar="DIR", help="A shipped name or a folder.")]
RuntimeOption = Annotated[
    RuntimeKind | None,
    typer.Option("--runtime", help="What runs it; without, what the folder is for: a compiled engine, ONNX, PyTorch."),
]


def evaluate(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", exists=True, dir_okay=False, help="Samples, one a line: id, image, conversations."
        ),
    ],
    images: Annotated[
        Path,
        typer.Option("--images", metavar="DIR", exists=True, file_okay=False, help="Folder that the images lie in."),
    ],
    model: ModelOption = "phantom",
    runtime: RuntimeOption = None,
    answers: Annotated[
        Path | None,
        typer.Option("--answers", metavar="FILE", help="Keeps the answers; FILE.answers.jsonl in this folder without."),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", metavar="N", min=1, help="Longest answer.")] = 400,
    in_flight: Annotated[
        int, typer.Option("--in-flight", metavar="N", min=1, help="Questions asked at the same time.")
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Ask a model the questions of a data file in MedRegA's own format, and score its answers.

    Answers are kept as they come: a run that was stopped goes on with the same command.
    """
    from engine.evaluation import Answers, ask_all, read_samples, score
    from engine.runtime import load_runtime, runtime_of

    samples = read_samples(data)
    path = answers or Path(f"{data.stem}.answers.jsonl")
    loaded = load_runtime(runtime or runtime_of(model), model)
    try:
        kept = Answers(path, loaded, max_new_tokens)
        with progress() as bar:
            task = bar.add_task("questions", total=len(samples))
            ask_all(
                samples,
                images,
                loaded,
                kept,
                max_new_tokens=max_new_tokens,
                in_flight=in_flight,
                progress=lambda done: bar.update(task, completed=done),
            )
    except KeyboardInterrupt:
        print_error(f"stopped; the same command goes on, with what is kept in {path}")
        raise typer.Exit(1) from None
    finally:
        loaded.close()
    scores = score(samples, kept.given)
    for sample in samples:
        if sample.digest in kept.refused:
            print_error(f"sample {sample.id} was not asked: {kept.refused[sample.digest]}")
    asked = sum(sample.digest in kept.given for sample in samples)
    if as_json:
        found = {"model": asdict(loaded.identity), "samples": len(samples), "answered": asked}
        typer.echo(json.dumps(found | {"scores": [asdict(one) for one in scores]}, ensure_ascii=False))
    else:
        _print_scores(scores)
        console().print(f"{asked} of {len(samples)} answered; they are kept in {path}")
    if asked < len(samples):
        raise typer.Exit(1)


def _print_scores(scores: list[Score]) -> None:
    from rich.table import Table

    table = Table("group", "samples", "figure", "value", "95 % interval", "unreadable")
    for one in scores:
        head = [one.group, str(one.samples)]
        tail = [str(one.unreadable)]
        for name, (value, low, high) in one.figures.items():
            table.add_row(*head, name, f"{value:.3f}", f"{low:.3f} to {high:.3f}", *tail)
            head, tail = ["", ""], [""]
    console().print(table)


def bench(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A shipped name, or a folder of the runtime's.")
    ] = "phantom",
    runtime: RuntimeOption = None,
    batch: Annotated[
        str, typer.Option("--batch", metavar="N,N", help="How many questions at the same time, one run each.")
    ] = "1,4,16",
    tokens: Annotated[int, typer.Option("--tokens", metavar="N", min=8, help="Tokens of an answer, at most.")] = 64,
    random_weights: Annotated[
        bool,
        typer.Option("--random-weights", help="Measure PyTorch with random weights, of MedRegA's published sizes."),
    ] = False,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="DIR", help="Take the sizes of this folder's config.json.")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="cpu or cuda, for PyTorch; a GPU where there is one.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure a model: vision, prefill and decoding, against the limit of the memory's bandwidth.

    The bandwidth is measured in the same run. With random weights a toy model is held against the CPU too.
    """
    from engine.bench import PUBLISHED, measure
    from engine.runtime import runtime_of

    try:
        batches = [int(number) for number in batch.split(",")]
    except ValueError:
        batches = []
    if not batches or min(batches) < 1:
        raise typer.BadParameter("numbers from 1, with commas between", param_hint="--batch")
    sizes = PUBLISHED if random_weights and config is None else config
    figures = measure(model, runtime or runtime_of(model), batches, tokens, device=device, sizes=sizes)
    if as_json:
        typer.echo(json.dumps(asdict(figures)))
        return
    from rich.table import Table

    table = Table(show_header=False)
    for name, value in figures.rows():
        table.add_row(name, value)
    console().print(table)
