"""From boxes to outlines: a refiner draws the outline of what a box holds, or leaves the box as it is.

==================  =====================================================================
``box``             none: the box itself is the region
``threshold``       what stands out from its surroundings, by its brightness
``FILE.toml``       a box-prompted segmentation model in ONNX (SAM family) that a site has
==================  =====================================================================
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final, Protocol

from engine.errors import ModelError
from engine.findings import Box, Mask
from engine.runtime.protocol import Rgb

__all__ = ["METHOD", "REFINER", "BoxRefiner", "Refiner", "load_refiner"]

REFINER: Final = r"^(box|threshold|.+\.toml)$"
"""What a plan or a setting may say."""
METHOD: Final = "Otsu threshold of brightness against the surroundings"
"""Of ``threshold``, as its masks say it."""


class Refiner(Protocol):
    """Draws an outline within a box."""

    def refine(self, rgb: Rgb, box: Box) -> Mask | None:
        """Draw the outline of what a box holds.

        Parameters
        ----------
        rgb : ndarray of uint8, [rows, columns, 3]
            The frame as rendered, in its source grid.
        box : tuple of float
            In the SCOORD frame of that grid (PS3.3 C.18.6).

        Returns
        -------
        Mask or None
            Within the box; None where no outline is to be trusted, and the box then stands.

        Raises
        ------
        ModelError
            If a model fails.
        """


class BoxRefiner:
    """Leaves every box as it is."""

    def refine(self, rgb: Rgb, box: Box) -> Mask | None:  # noqa: ARG002 - it looks at nothing
        """See `Refiner.refine`."""
        return None


@cache
def load_refiner(name: str) -> Refiner:
    """Find a refiner by the name that a plan or the settings give; a model is loaded once.

    Parameters
    ----------
    name : str
        ``box``, ``threshold``, or the path of a model's TOML file (see `engine.refine.prompted`).

    Raises
    ------
    ModelError
        If there is no such refiner, or its model cannot be used.
    """
    # What a refiner needs is imported when it is chosen: most nodes need neither library.
    if name == "box":
        return BoxRefiner()
    if name == "threshold":
        from engine.refine.threshold import ThresholdRefiner

        return ThresholdRefiner()
    if name.endswith(".toml"):
        from engine.refine.prompted import PromptedRefiner

        return PromptedRefiner(Path(name))
    raise ModelError(
        f"there is no refiner {name!r}", advice="Choose box, threshold, or the path of a model's TOML file."
    )
