"""From stored values to display values of a monochrome frame: modality LUT, VOI LUT, presentation LUT (PS3.4 N.2)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from engine.errors import UndecodableError
from engine.imaging.lut import Lut, Values

WHITE: Final = 255
_TABLE_MAX: Final = 2**16

Function = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]
_FUNCTIONS: Final[dict[str, Function]] = {name: name for name in get_args(Function)}


@dataclass(frozen=True, slots=True)
class Window:
    """Window Center and Width with their function (PS3.3 C.11.2.1.2)."""

    center: float
    width: float
    function: Function = "LINEAR"

    def __post_init__(self) -> None:
        least = 1.0 if self.function == "LINEAR" else 0.0
        if not (math.isfinite(self.center) and math.isfinite(self.width)) or self.width < least or self.width <= 0:
            raise ValueError("a window needs a finite center and a positive width (at least 1 for LINEAR)")

    def apply(self, values: Values) -> Values:
        """Return modality values as display values, 0 to 1."""
        if self.function == "SIGMOID":
            # Beyond 60 the exponential only overflows; the result is 0 or 1 long before.
            return 1 / (1 + np.exp(np.clip(-4 * (values - self.center) / self.width, -60, 60)))
        if self.function == "LINEAR_EXACT":
            return np.clip((values - self.center) / self.width + 0.5, 0, 1)
        low = self.center - 0.5 - (self.width - 1) / 2
        if self.width == 1:
            return np.where(values <= low, 0.0, 1.0)
        return np.clip((values - low) / (self.width - 1), 0, 1)


def to_display(
    stored: npt.NDArray[Any],
    header: Dataset,
    frame: int,
    photometric: str,
    window: Window | None = None,
    *,
    little: bool = True,
) -> npt.NDArray[np.uint8]:
    """Return a monochrome frame as display values: 0 is black, 255 white; what pads the image is black.

    Parameters
    ----------
    stored : ndarray, [rows, columns]
        Stored values, integer or float.
    header : Dataset
    frame : int
        Frame number, from 1, for functional groups.
    photometric : {"MONOCHROME1", "MONOCHROME2"}
    window : Window, optional
        Instead of the object's own VOI LUT or window.
    little : bool
        Byte order of the header's look-up tables.

    Raises
    ------
    UndecodableError
        If the values are not finite.
    """
    whole = bool(np.issubdtype(stored.dtype, np.integer))
    padding = _padding(header, stored.dtype)
    low, high = _range(stored, padding)
    modality = _modality(header, frame, signed=bool(np.issubdtype(stored.dtype, np.signedinteger)), little=little)
    stepwise = whole and high - low < _TABLE_MAX
    reach = modality(np.arange(low, high + 1) if stepwise else np.array([low, high]))
    inverted = photometric == "MONOCHROME1" or header.get("PresentationLUTShape") == "INVERSE"
    voi = _voi(header, frame, window, reach, little=little)

    def display(values: Values) -> npt.NDArray[np.uint8]:
        shown = voi(modality(values))
        result = np.round((1 - shown if inverted else shown) * WHITE).astype(np.uint8)
        if padding is not None:
            result[(values >= padding[0]) & (values <= padding[1])] = 0
        return result

    if whole:
        first, last = int(stored.min()), int(stored.max())
        if last - first < _TABLE_MAX:
            # One entry for each value that occurs, instead of floating point for each pixel; row by row, as numpy
            # widens an index to 64 bits.
            table = display(np.arange(first, last + 1, dtype=np.float64))
            shown = np.empty(stored.shape, np.uint8)
            for row, values in zip(shown, stored, strict=True):
                row[:] = table[np.subtract(values, first, dtype=np.int64)]
            return shown
    return display(np.nan_to_num(stored.astype(np.float64), nan=low, posinf=high, neginf=low))


def _padding(header: Dataset, dtype: np.dtype[Any]) -> tuple[float, float] | None:
    """The stored values that pad the image (PS3.3 C.7.5.1.1.2; of floating point C.7.6.24, C.7.6.25)."""
    prefix = {"f4": "Float", "f8": "DoubleFloat"}.get(dtype.str[1:], "")
    value, limit = (header.get(f"{prefix}PixelPadding{which}") for which in ("Value", "RangeLimit"))
    if not isinstance(value, int | float):
        return None
    ends = [value, limit if isinstance(limit, int | float) else value]
    if np.issubdtype(dtype, np.signedinteger):  # of signed pixels it is sometimes written as unsigned
        half = 2 ** (dtype.itemsize * 8 - 1)
        ends = [end - 2 * half if half <= end < 2 * half else end for end in ends]
    return float(min(ends)), float(max(ends))


def _range(stored: npt.NDArray[Any], padding: tuple[float, float] | None) -> tuple[float, float]:
    """Smallest and largest stored value, without what pads the image."""
    inside = np.isfinite(stored) if np.issubdtype(stored.dtype, np.floating) else None
    if padding is not None:
        kept = (stored < padding[0]) | (stored > padding[1])
        inside = kept if inside is None else inside & kept
    values = stored if inside is None or not inside.any() else stored[inside]
    low, high = float(np.min(values)), float(np.max(values))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UndecodableError("the image's values are not finite")
    return low, high


def _modality(header: Dataset, frame: int, *, signed: bool, little: bool) -> Callable[[Values], Values]:
    """The modality LUT, or rescale slope and intercept (PS3.3 C.11.1)."""
    # The tables of these lead back to X-ray intensities and are not for display (PS3.3 C.8.7.1.1.2).
    projection = header.get("Modality") in ("XA", "XRF") and header.get("PixelIntensityRelationship") in ("LOG", "DISP")
    if not projection and (lut := _lut(header, "ModalityLUTSequence", signed=signed, little=little)):
        return lut.apply
    source = _group(header, frame, "PixelValueTransformationSequence") or header
    slope = _number(source, "RescaleSlope") or 1.0  # missing, or one that would leave no image
    intercept = _number(source, "RescaleIntercept") or 0.0
    return lambda values: values * slope + intercept


def _voi(
    header: Dataset, frame: int, window: Window | None, reach: Values, *, little: bool
) -> Callable[[Values], Values]:
    """The VOI LUT, else the first window, else the whole range of the data (PS3.3 C.11.2)."""
    if window is not None:
        return window.apply
    low, high = float(reach.min()), float(reach.max())
    source = _voi_source(header, frame)
    if lut := _lut(source, "VOILUTSequence", signed=low < 0, little=little):
        top = float(2**lut.bits - 1)
        return lambda values: np.clip(lut.apply(values) / top, 0, 1)
    if own := _window(source):
        return own.apply
    return lambda values: np.clip((values - low) / ((high - low) or 1.0), 0, 1)


def window_of(header: Dataset, frame: int = 1) -> Window | None:
    """Return the first window that an object has for a frame; None where it has none, or a VOI LUT before it.

    Parameters
    ----------
    header : Dataset
    frame : int
        Frame number, from 1.
    """
    source = _voi_source(header, frame)
    return None if source.get("VOILUTSequence") else _window(source)


def _voi_source(header: Dataset, frame: int) -> Dataset:
    return _group(header, frame, "FrameVOILUTSequence") or header


def _window(source: Dataset) -> Window | None:
    center, width = _number(source, "WindowCenter"), _number(source, "WindowWidth")
    if center is None or width is None:
        return None
    function = str(source.get("VOILUTFunction") or "LINEAR")
    try:
        return Window(center, width, _FUNCTIONS.get(function, "LINEAR"))
    except ValueError:
        return None


def _lut(source: Dataset, keyword: str, *, signed: bool, little: bool) -> Lut | None:
    items = source.get(keyword)
    if not items:
        return None
    try:
        return Lut.from_item(items[0], signed=signed, little=little)
    except (AttributeError, TypeError, ValueError):
        return None


def _group(header: Dataset, frame: int, keyword: str) -> Dataset | None:
    """The item of a functional group macro for a frame: its own, else the one all frames share (PS3.3 C.7.6.16)."""
    own = header.get("PerFrameFunctionalGroupsSequence") or []
    groups = [*own[frame - 1 : frame], *(header.get("SharedFunctionalGroupsSequence") or [])[:1]]
    return next((group.get(keyword)[0] for group in groups if group.get(keyword)), None)


def _number(source: Dataset, keyword: str) -> float | None:
    value = source.get(keyword)
    if isinstance(value, MultiValue | list):
        value = value[0] if value else None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
