"""An image file as a person sees it: PNG, JPEG, or a frame of a DICOM object."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from engine.errors import NotDicomError, UndecodableError
from engine.imaging import render_frame
from engine.runtime.protocol import Rgb
from engine.study import load_instance


def read_image(path: Path, frame: int = 1) -> Rgb:
    """Render a file.

    Parameters
    ----------
    path : Path
    frame : int
        Which frame of a DICOM object, from 1.

    Returns
    -------
    ndarray of uint8, [rows, columns, 3]

    Raises
    ------
    ImageError
        If it cannot be decoded, or is no image.
    """
    try:
        with path.open("rb") as stream:
            begin = stream.read(8)
        if not begin.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")):
            return render_frame(load_instance(path), frame).rgb
        with Image.open(path, formats=("PNG", "JPEG")) as picture:
            if picture.mode.startswith(("I", "F")):
                raise UndecodableError("the picture has more than 8 bits, and nothing says how to show them")
            return np.asarray(picture.convert("RGB"))
    except NotDicomError as error:
        raise UndecodableError(f"the picture is neither PNG nor JPEG; {error}") from error
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        why = getattr(error, "strerror", None) or type(error).__name__
        raise UndecodableError(f"the picture cannot be decoded: {why}") from error
