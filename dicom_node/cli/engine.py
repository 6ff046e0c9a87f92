"""``engine``: ask a model, look at it, check it, measure it, compile it."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dicom_node.cli import figures
from dicom_node.cli.common import console, examples, print_error
from dicom_node.cli.figures import ModelOption, RuntimeOption
from engine.errors import MedregaError

if TYPE_CHECKING:
    from rich.progress import Progress

app = typer.Typer(
    help="Ask a model, look at it, check it, measure it, compile it.",
    no_args_is_help=True,
    epilog=examples("engine info", 'engine ask --image image.dcm --question "Describe the image."'),
)


class Dtype(StrEnum):
    """Types of a compiled decoder's weights."""

    BF16 = "bf16"
    FP8 = "fp8"
    INT4_AWQ = "int4-awq"


class Until(StrEnum):
    """Steps of a compile."""

    SPLIT = "split"
    ONNX = "onnx"
    CHECKPOINT = "checkpoint"
    ENGINE = "engine"


def _progress() -> Progress:
    """Progress in bytes, on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(),
        DownloadColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A shipped name, a checkpoint's folder, or a compile's output folder.")
]


@app.command(
    epilog=examples(
        "engine ask --image image.dcm --question "
        '"What is <ref>this</ref><box>[[63, 290, 261, 594]]</box> in this X-ray image?"',
        'engine ask --model MedRegA --image a.png --question "Describe the image." --json',
    )
)
def ask(
    image: Annotated[
        Path, typer.Option("--image", metavar="FILE", exists=True, dir_okay=False, help="PNG, JPEG or DICOM.")
    ],
    question: Annotated[
        str,
        typer.Option(
            "--question",
            metavar="TEXT",
            help="The user's words, with <image> where the image stands; else the image and a newline come first.",
        ),
    ],
    model: ModelOption = "phantom",
    runtime: RuntimeOption = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", metavar="N", min=1, help="Longest answer.")] = 400,
    frame: Annotated[
        int, typer.Option("--frame", metavar="N", min=1, help="Which frame of a DICOM object; the first is 1.")
    ] = 1,
    as_json: Annotated[
        bool, typer.Option("--json", help='Print {"answer", "token_ids", "prompt_token_ids"}, special tokens kept.')
    ] = False,
) -> None:
    """Ask a model one question about one image, in the model's own template.

    The answer keeps its special tokens: <ref>disc</ref><box>[[1, 2, 3, 4]]</box>.

    A model answers as it was trained: the one that ships knows the prompts of a reading and little else.
    """
    from engine.evaluation.images import read_image
    from engine.runtime import load_runtime, runtime_of

    if question.count("<image>") > 1:
        raise typer.BadParameter("a question holds <image> once", param_hint="--question")
    if "<image>" not in question:
        question = f"<image>\n{question}"
    pixels = read_image(image, frame)
    loaded = load_runtime(runtime or runtime_of(model), model)
    try:
        answer = loaded.ask(pixels, question, max_new_tokens=max_new_tokens)
    finally:
        loaded.close()
    if as_json:
        said = {
            "answer": answer.text,
            "token_ids": list(answer.token_ids),
            "prompt_token_ids": list(answer.prompt_token_ids),
        }
        typer.echo(json.dumps(said, ensure_ascii=False))
    else:
        typer.echo(answer.text)


@app.command(epilog=examples("engine info", "engine info MedRegA --json", "engine info compiled"))
def info(
    model: ModelArgument = "phantom",
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Say what a model is: its sizes, weights, the memory it needs, and how it was compiled."""
    from engine.compile.inspection import describe
    from engine.runtime import model_path

    described = describe(model_path(model))
    if as_json:
        typer.echo(json.dumps(described, ensure_ascii=False))
        return
    from rich.table import Table

    table = Table(show_header=False)
    for name, value in described.items():
        table.add_row(name.replace("_", " "), str(value))
    console().print(table)


@app.command(epilog=examples("engine check", "engine check MedRegA", "engine check compiled"))
def check(model: ModelArgument = "phantom") -> None:
    """Check a model: names and shapes of its tensors, its tokenizer; of a compile, the digest of every file.

    Exit status 1, and what is wrong, if something is.
    """
    from engine.compile.inspection import check_model
    from engine.runtime import model_path

    with _progress() as bar:
        task = bar.add_task("check", total=None)
        faults = check_model(model_path(model), lambda _, done, total: bar.update(task, completed=done, total=total))
    for fault in faults:
        print_error(fault)
    if faults:
        raise typer.Exit(1)
    console().print(f"{model} is complete")


@app.command(epilog=examples("engine export small-medrega"))
def export(
    model: Annotated[Path, typer.Argument(metavar="DIR", exists=True, file_okay=False, help="A checkpoint's folder.")],
) -> None:
    """Write a checkpoint's ONNX graphs beside its weights, so that ONNX Runtime runs it on a CPU without PyTorch."""
    try:
        from engine.model.export import export as write_graphs
    except ModuleNotFoundError as error:
        raise MedregaError(
            f"exporting needs the package {error.name!r}", advice="Install medrega-pacs[compile]."
        ) from error
    with console().status("Exporting"):
        write_graphs(model)
    console().print(f"{model}: vision.onnx, embed.onnx and decoder.onnx are there")


@app.command(
    name="compile",
    epilog=examples(
        "engine compile --checkpoint MedRegA --out compiled",
        "engine compile --checkpoint MedRegA --out compiled --tensor-parallel 2 --until checkpoint",
    ),
)
def compile_(
    checkpoint: Annotated[
        Path, typer.Option("--checkpoint", metavar="DIR", help="A MedRegA folder (internvl_chat), or a shipped name.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Gets the engine and its manifest.json.")],
    dtype: Annotated[
        Dtype, typer.Option("--dtype", help="Of the decoder; fp8 and int4-awq are calibrated on a GPU host.")
    ] = Dtype.BF16,
    tensor_parallel: Annotated[
        int, typer.Option("--tensor-parallel", metavar="N", help="GPUs that share the decoder: 1, 2, 4 or 8.")
    ] = 1,
    max_batch: Annotated[
        int, typer.Option("--max-batch", metavar="N", min=1, help="Questions answered at the same time.")
    ] = 8,
    until: Annotated[
        Until, typer.Option("--until", help="The last step; all but engine run without a GPU.")
    ] = Until.ENGINE,
) -> None:
    """Compile MedRegA for TensorRT-LLM: split, vision to ONNX, TensorRT-LLM checkpoint, engines.

    Each step is recorded in DIR/manifest.json. A compile that was stopped goes on with the same command.
    """
    from engine.compile import CompileSettings, compile_model
    from engine.runtime import model_path

    settings = CompileSettings(dtype.value, tensor_parallel, max_batch)
    last: Literal["split", "onnx", "checkpoint", "engine"] = until.value
    with _progress() as bar:
        tasks: dict[str, int] = {}

        def report(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bar.add_task(step, total=total)
            bar.update(bar.task_ids[tasks[step]], completed=done, total=total)

        manifest = compile_model(model_path(str(checkpoint)), out, settings, last, report)
    steps = ", ".join(step for step, record in manifest.record["steps"].items() if record.get("done"))
    console().print(f"{out}: {steps} done, digest {manifest.digest}")
    onnx = manifest.record["steps"].get("onnx", {})
    if onnx.get("done") and onnx["largest_difference"] is None:
        console().print("The vision graph was not held against PyTorch: there is not enough memory for both")
    elif onnx.get("done"):
        largest = onnx["largest_difference"]
        console().print(f"The vision graph differs from PyTorch by at most {largest:.1e} of its largest value")
    parted = manifest.record["steps"].get("engine", {}).get("self_test")
    if parted:
        raise MedregaError(f"the engine answers {len(parted)} questions of the self test otherwise than PyTorch")


app.command(
    epilog=examples(
        "engine evaluate data.jsonl --images .",
        "engine evaluate data.jsonl --images . --model MedRegA --runtime torch --answers medrega.jsonl --json",
    )
)(figures.evaluate)
app.command(
    epilog=examples(
        "engine bench",
        "engine bench compiled --runtime tensorrt_llm --batch 1,8",
        "engine bench --random-weights --device cuda --json",
    )
)(figures.bench)
