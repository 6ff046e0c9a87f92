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

Values = npt.NDArray[np.float64]
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


@dataclass(frozen=True)
class Lut:
    """A look-up table of a Modality or VOI LUT Sequence item (PS3.3 C.11.1.1, C.11.2.1.1)."""

    first: int
    bits: int
    entries: npt.NDArray[np.uint16]

    @classmethod
    def from_item(cls, item: Dataset, *, signed: bool) -> Lut:
        """Read a table.

        Raises
        ------
        ValueError
            If descriptor and data do not fit.
        """
        count, first, bits = (int(value) for value in item.LUTDescriptor)
        count = count or _TABLE_MAX
        data = item.LUTData
        if isinstance(data, bytes):
            entries = np.frombuffer(data, "<u2" if len(data) >= 2 * count else "u1").astype(np.uint16)
        else:
            entries = np.atleast_1d(np.asarray(data)).astype(np.int64).astype(np.uint16)
        if not 1 <= bits <= 16 or len(entries) < count:
            raise ValueError("a look-up table's descriptor does not fit its data")
        if signed and first >= 2**15:  # the descriptor's second value is signed where the input is
            first -= 2**16
        return cls(first, bits, entries[:count])

    def apply(self, values: Values) -> Values:
        """Return the entries for input values; those beyond the table get its first or last one."""
        place = np.clip(np.round(values) - self.first, 0, len(self.entries) - 1)
        return self.entries[place.astype(np.int64)].astype(np.float64)


def to_display(
    stored: npt.NDArray[Any], header: Dataset, frame: int, photometric: str, window: Window | None = None
) -> npt.NDArray[np.uint8]:
    """Return a monochrome frame as display values: 0 is black, 255 white.

    Parameters
    ----------
    stored : ndarray, [rows, columns]
        Stored values, integer or float.
    header : Dataset
    frame : int
        Frame number, from 1, for per-frame functional groups.
    photometric : {"MONOCHROME1", "MONOCHROME2"}
    window : Window, optional
        Instead of the object's own VOI LUT or window.
    """
    low, high = _range(stored, header)
    signed = bool(np.issubdtype(stored.dtype, np.signedinteger))
    modality = _modality(header, frame, signed=signed)
    whole = np.issubdtype(stored.dtype, np.integer) and high - low < _TABLE_MAX
    reach = modality(np.arange(low, high + 1) if whole else np.array([low, high]))
    inverted = photometric == "MONOCHROME1" or header.get("PresentationLUTShape") == "INVERSE"
    voi = _voi(header, frame, window, reach)

    def display(values: Values) -> npt.NDArray[np.uint8]:
        shown = voi(modality(values))
        return np.round((1 - shown if inverted else shown) * WHITE).astype(np.uint8)

    if np.issubdtype(stored.dtype, np.integer):
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


def _range(stored: npt.NDArray[Any], header: Dataset) -> tuple[float, float]:
    """Smallest and largest stored value, without the padding around the image (PS3.3 C.7.5.1.1.2)."""
    padding = header.get("PixelPaddingValue")
    inside = np.isfinite(stored) if np.issubdtype(stored.dtype, np.floating) else None
    if isinstance(padding, int):
        limit = header.get("PixelPaddingRangeLimit")
        other = limit if isinstance(limit, int) else padding
        kept = (stored < min(padding, other)) | (stored > max(padding, other))
        inside = kept if inside is None else inside & kept
    values = stored if inside is None or not inside.any() else stored[inside]
    low, high = float(np.min(values)), float(np.max(values))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UndecodableError("the image's values are not finite")
    return low, high


def _modality(header: Dataset, frame: int, *, signed: bool) -> Callable[[Values], Values]:
    """The modality LUT, or rescale slope and intercept (PS3.3 C.11.1)."""
    if lut := _lut(header, "ModalityLUTSequence", signed=signed):
        return lut.apply
    source = _group(header, frame, "PixelValueTransformationSequence") or header
    slope, intercept = _number(source, "RescaleSlope"), _number(source, "RescaleIntercept")
    if not slope:  # missing, or a slope that would leave no image
        return lambda values: values
    return lambda values: values * slope + (intercept or 0.0)


def _voi(header: Dataset, frame: int, window: Window | None, reach: Values) -> Callable[[Values], Values]:
    """The VOI LUT, else the first window, else the whole range of the data (PS3.3 C.11.2)."""
    if window is not None:
        return window.apply
    low, high = float(reach.min()), float(reach.max())
    if lut := _lut(header, "VOILUTSequence", signed=low < 0):
        top = float(2**lut.bits - 1)
        return lambda values: np.clip(lut.apply(values) / top, 0, 1)
    if own := _window(_group(header, frame, "FrameVOILUTSequence") or header):
        return own.apply
    return lambda values: np.clip((values - low) / ((high - low) or 1.0), 0, 1)


def _window(source: Dataset) -> Window | None:
    center, width = _number(source, "WindowCenter"), _number(source, "WindowWidth")
    if center is None or width is None:
        return None
    function = str(source.get("VOILUTFunction") or "LINEAR")
    try:
        return Window(center, width, _FUNCTIONS.get(function, "LINEAR"))
    except ValueError:
        return None


def _lut(header: Dataset, keyword: str, *, signed: bool) -> Lut | None:
    items = header.get(keyword)
    if not items:
        return None
    try:
        return Lut.from_item(items[0], signed=signed)
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
