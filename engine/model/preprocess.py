"""A rendered frame to the vision tower's input, as MedRegA was trained: stretched, not padded or tiled."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

MEAN: Final = np.array([0.485, 0.456, 0.406], np.float32)
STD: Final = np.array([0.229, 0.224, 0.225], np.float32)


def preprocess(image: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.float32]:
    """Stretch to a square (bicubic), scale to 0..1, normalise by ImageNet's mean and deviation.

    Parameters
    ----------
    image : ndarray of uint8, [rows, columns, 3]
    size : int
        Side of the square in pixels, from ``config.json``.

    Returns
    -------
    ndarray of float32, [3, size, size]
    """
    square = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)
    scaled = np.asarray(square, np.float32) / 255.0
    return np.ascontiguousarray(((scaled - MEAN) / STD).transpose(2, 0, 1))
