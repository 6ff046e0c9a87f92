"""From a DICOM instance to the picture a model sees, and from the model's boxes back to the source pixels."""

from engine.imaging.admission import MAX_PIXELS, check_image
from engine.imaging.decode import Frame, decode_frame
from engine.imaging.grayscale import Window
from engine.imaging.render import RenderedFrame, render_frame
from engine.imaging.transform import Transform

__all__ = [
    "MAX_PIXELS",
    "Frame",
    "RenderedFrame",
    "Transform",
    "Window",
    "check_image",
    "decode_frame",
    "render_frame",
]
