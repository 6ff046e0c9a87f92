"""From a DICOM instance to the picture a model sees, and from the model's boxes back to the source pixels."""

from engine.imaging.admission import check_image
from engine.imaging.decode import Frame, decode_frame
from engine.imaging.grayscale import Window, window_of
from engine.imaging.render import RenderedFrame, aspect_of, render_frame
from engine.imaging.transform import Transform

__all__ = [
    "Frame",
    "RenderedFrame",
    "Transform",
    "Window",
    "aspect_of",
    "check_image",
    "decode_frame",
    "render_frame",
    "window_of",
]
