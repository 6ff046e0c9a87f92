"""Outlines by a model of the SAM family in ONNX: an image and a box in, a mask out.

A site supplies the graphs and a TOML file beside them that says what they call their inputs and outputs::

    name = "MobileSAM"
    version = "1.0"
    size = 1024                                # the frame's longer side is brought to this
    mean = [123.675, 116.28, 103.53]           # of 0 to 255
    std = [58.395, 57.12, 57.375]

    [encoder]                                  # left out where one graph does everything
    file = "encoder.onnx"
    inputs = { image = "images" }

    [decoder]                                  # the inputs not named here are outputs of the encoder
    file = "decoder.onnx"
    inputs = { points = "point_coords", labels = "point_labels", mask = "mask_input", has_mask = "has_mask_input" }
    masks = "masks"
    scores = "iou_predictions"                 # may be left out

What an input can be is told in `Role`.
"""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError
from scipy.ndimage import map_coordinates

from engine.errors import ModelError
from engine.findings import Box, Mask
from engine.masks import box_slices, pack
from engine.runtime.protocol import Rgb

Role = Literal["image", "points", "labels", "box", "frame", "mask", "has_mask"]
"""What a graph can be given.

==========  ====================================================================================================
image       [1, 3, size, size], normalised; the frame is in the upper left and zeros are around it
points      [1, 2, 2], (x, y) of the box's first and last corner, in pixels of `image`
labels      [1, 2], what these points are: 2, 3
box         [1, 4], the same as x0, y0, x1, y1
frame       [2], rows and columns of the source frame, for graphs that give their mask in its size
mask        an earlier mask; zeros, of the shape that the graph declares, else [1, 1, size / 4, size / 4]
has_mask    [1], whether there is one: 0
==========  ====================================================================================================

Leading dimensions of 1 are added where a graph wants more of them.
"""
_TYPES: Final = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}
_LARGEST_FILE: Final = 2**31
_LARGEST_MASK: Final = 2**26
"""Values that a graph may answer with: 256 MiB of them."""
_LEAST_SHARE: Final = 0.02
"""Of the box: less is no outline of what the box holds."""

Array = npt.NDArray[Any]
Name = Annotated[str, Field(min_length=1, max_length=64)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Encoder(_Part):
    """The graph that sees the image, once a frame."""

    file: Name
    inputs: dict[Role, Name]


class Decoder(Encoder):
    """The graph that gives the mask, once a box."""

    masks: Name
    scores: Name | None = None


class Description(_Part):
    """What the TOML file says.

    Parameters
    ----------
    name, version : str
        For the segment's description.
    size : int
        Side of the square that the model sees, in pixels.
    mean, std : tuple of float
        Of the three channels, 0 to 255.
    threshold : float
        A pixel belongs to the mask where the model's value is above it.
    encoder : Encoder, optional
    decoder : Decoder
    """

    name: Name
    version: Name
    size: int = Field(default=1024, ge=32, le=4096)
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (255.0, 255.0, 255.0)
    threshold: float = 0.0
    encoder: Encoder | None = None
    decoder: Decoder


class PromptedRefiner:
    """A box-prompted model that a site supplies; runs on the CPU.

    Parameters
    ----------
    path : Path
        The TOML file; the graphs are beside it.

    Raises
    ------
    ModelError
        If the file or a graph cannot be used, or the two do not fit each other.
    """

    def __init__(self, path: Path) -> None:
        self._said = said = _description(path)
        self._decoder, digest = _session(path.parent / said.decoder.file)
        self._encoder = _session(path.parent / said.encoder.file)[0] if said.encoder else None
        given = set(said.decoder.inputs.values())
        if said.encoder and self._encoder:
            _check(self._encoder, said.encoder, set(said.encoder.inputs.values()))
            given |= {output.name for output in self._encoder.get_outputs()}
        _check(self._decoder, said.decoder, given)
        answers = {output.name for output in self._decoder.get_outputs()}
        if missing := {said.decoder.masks, said.decoder.scores or said.decoder.masks} - answers:
            raise ModelError(f"{said.decoder.file} has no output {sorted(missing)[0]!r}; it has {sorted(answers)}")
        self.method = f"{said.name} {said.version} (sha256 {digest[:12]}), prompted with the box"
        self._seen: tuple[Rgb, dict[str, Array]] | None = None

    def refine(self, rgb: Rgb, box: Box) -> Mask | None:
        """See `Refiner.refine`."""
        rows, columns = rgb.shape[:2]
        scale = self._said.size / max(rows, columns)
        corners = np.array(box, np.float32).reshape(2, 2) * scale
        roles: dict[Role, Array] = {
            "points": corners[None],
            "labels": np.array([[2, 3]]),
            "box": corners.reshape(1, 4),
            "frame": np.array([rows, columns]),
            "mask": np.zeros((1, 1, self._said.size // 4, self._said.size // 4)),
            "has_mask": np.zeros(1),
        }
        answers = self._answers(rgb, roles)
        masks = answers[self._said.decoder.masks]
        if masks.ndim < 2 or not 0 < masks.size <= _LARGEST_MASK:
            raise ModelError(f"{self._said.decoder.file} gave a mask of the shape {masks.shape}")
        masks = masks.reshape(-1, *masks.shape[-2:])
        scores = answers[self._said.decoder.scores].ravel() if self._said.decoder.scores else np.zeros(1)
        best = masks[int(np.argmax(scores)) % len(masks)].astype(np.float32)
        down, across = (
            slice(part.start, min(part.stop, size)) for part, size in zip(box_slices(box), (rows, columns), strict=True)
        )
        if best.shape == (rows, columns):
            values = best[down, across]
        else:  # of the square that the model sees, in whatever fineness
            places = [
                (np.arange(part.start, part.stop) + 0.5) * scale * side / self._said.size - 0.5
                for part, side in zip((down, across), best.shape, strict=True)
            ]
            values = map_coordinates(best, np.meshgrid(*places, indexing="ij"), order=1, mode="nearest")
        inside = values > self._said.threshold
        if inside.sum() < max(1.0, _LEAST_SHARE * inside.size):
            return None
        return pack(inside, across.start, down.start, self.method)

    def _answers(self, rgb: Rgb, roles: dict[Role, Array]) -> dict[str, Array]:
        encoder = self._said.encoder
        if encoder is None or self._encoder is None:
            roles["image"] = self._image(rgb)
            return _run(self._decoder, self._said.decoder, roles, {})
        seen = self._seen
        if seen is None or seen[0] is not rgb:  # several boxes of one frame come one after the other
            seen = self._seen = (rgb, _run(self._encoder, encoder, {**roles, "image": self._image(rgb)}, {}))
        return _run(self._decoder, self._said.decoder, roles, seen[1])

    def _image(self, rgb: Rgb) -> Array:
        size = self._said.size
        scale = size / max(rgb.shape[:2])
        rows, columns = (max(1, round(side * scale)) for side in rgb.shape[:2])
        small = np.asarray(Image.fromarray(rgb).resize((columns, rows), Image.Resampling.BILINEAR), np.float32)
        image = np.zeros((1, 3, size, size), np.float32)
        image[0, :, :rows, :columns] = ((small - self._said.mean) / self._said.std).transpose(2, 0, 1)
        return image


def _description(path: Path) -> Description:
    try:
        return Description.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise ModelError(f"the refiner's file {path.name} cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"the refiner's file {path.name} is not TOML: {error}") from error
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise ModelError(f"the refiner's file {path.name} is wrong: {faults}") from error


def _session(path: Path) -> tuple[Any, str]:
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ModelError(f"{path.name} is larger than {_LARGEST_FILE >> 30} GiB")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"the refiner's graph {path.name} cannot be read ({error.strerror})") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_cpu_mem_arena = False  # a large frame's memory is given back
    try:
        return onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"]), digest
    except Exception as error:  # ONNX Runtime's own exceptions share no base class but this one
        raise ModelError(f"{path.name} is no usable ONNX graph ({type(error).__name__})") from error


def _check(session: Any, part: Encoder, given: set[str]) -> None:
    wanted = {one.name for one in session.get_inputs()}
    if unknown := set(part.inputs.values()) - wanted:
        raise ModelError(f"{part.file} has no input {sorted(unknown)[0]!r}; it has {sorted(wanted)}")
    if missing := wanted - given:
        raise ModelError(f"{part.file} wants {sorted(missing)[0]!r}, which its TOML file does not give it")
    if wrong := [one.type for one in session.get_inputs() if one.type not in _TYPES]:
        raise ModelError(f"{part.file} wants an input of the type {wrong[0]}")


def _run(session: Any, part: Encoder, roles: dict[Role, Array], others: dict[str, Array]) -> dict[str, Array]:
    role_of = {name: role for role, name in part.inputs.items()}
    inputs = {}
    for one in session.get_inputs():
        role = role_of.get(one.name)
        value = others[one.name] if role is None else roles[role]
        if role == "mask" and all(isinstance(side, int) for side in one.shape):
            value = np.zeros(one.shape)
        value = value.reshape((1,) * (len(one.shape) - value.ndim) + value.shape)
        inputs[one.name] = value.astype(_TYPES[one.type])
    names = [output.name for output in session.get_outputs()]
    try:
        return dict(zip(names, session.run(names, inputs), strict=True))
    except Exception as error:  # as above
        raise ModelError(f"{part.file} failed on an image ({type(error).__name__})") from error
