"""The picture of a run: what the node's processes took, and how long each stage lasted."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from load_flow import STAGES, Flow, percentiles

_ROLES: Final = ("front", "reading", "delivery", "console", "broker")
_COLOURS: Final = ("#2b5c9e", "#b3261e", "#2a7f3f", "#8a5a00", "#5f6b7a")


def draw(came: Flow, path: Path) -> None:
    """Draw memory, open files and threads over the studies that were done, and the stages' percentiles."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, places = plt.subplots(2, 2, figsize=(12, 7.5), layout="constrained")
    done = [sample.done for sample in came.samples]
    for axes, unit, title in (
        (places[0, 0], "MB", "resident memory, MB"),
        (places[0, 1], "files", "open files"),
        (places[1, 0], "threads", "threads"),
    ):
        for role, colour in zip(_ROLES, _COLOURS, strict=True):
            values = [sample.figures.get(f"{role} {unit}") for sample in came.samples]
            axes.plot(done, [float("nan") if one is None else one for one in values], color=colour, label=role)
        axes.set(title=title, xlabel="studies done", ylim=(0, None))
        axes.legend(fontsize=8, frameon=False, ncols=len(_ROLES))
    axes = places[1, 1]
    for place, (name, colour) in enumerate(zip(("median", "90 %", "99 %"), _COLOURS, strict=False)):
        values = [percentiles(came.stages[stage])[place] for stage in STAGES]
        at = [number + 0.27 * (place - 1) for number in range(len(STAGES))]
        axes.bar(at, values, width=0.27, color=colour, label=name)
    axes.set_xticks(range(len(STAGES)), STAGES)
    axes.set(title="seconds of a study in each stage", yscale="log")
    axes.legend(fontsize=8, frameon=False)
    rate = came.studies / came.seconds
    figure.suptitle(f"{came.studies} studies, {came.images} images, {rate:.2f} studies a second")
    figure.savefig(path, dpi=80)
    plt.close(figure)
