"""The images with findings as Key Object Selection Document (PS3.3 A.35.4, PS3.16 TID 2010)."""

from __future__ import annotations

from highdicom.ko import KeyObjectSelection, KeyObjectSelectionDocument
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from sr_writer.context import Context
from sr_writer.secondary_capture import key_frames, warning
from sr_writer.sources import unique
from sr_writer.text import clean_text


def write_key_objects(context: Context) -> list[Dataset]:
    """Select the images that have regions.

    Parameters
    ----------
    context : Context

    Returns
    -------
    list of Dataset
        One; none where no image has a region.

    Raises
    ------
    WriteError
        If a region does not lie on its image.
    """
    frames = key_frames(context)
    if not frames:
        return []
    images = unique(image for image, _ in frames)
    stand_ins = [image.stand_in() for image in images]
    content = KeyObjectSelection(
        document_title=codes.DCM.OfInterest,
        referenced_objects=stand_ins,
        observer_device_context=context.identity.observer(),
        description=clean_text(warning(context, context.profile.languages)),
    )
    result = KeyObjectSelectionDocument(
        evidence=stand_ins, content=content, **context.common("kos", 0, context.profile.languages, "key images")
    )
    for item in result.ContentSequence:
        if item.ValueType == "IMAGE":
            del item.ConceptNameCodeSequence  # the library names the reference "Source"; TID 2010 has no name there
            reference = item.ReferencedSOPSequence[0]
            if context.sources.image(reference.ReferencedSOPInstanceUID).frames > 1:
                reference.ReferencedFrameNumber = [
                    number for image, number in frames if image.sop_instance_uid == reference.ReferencedSOPInstanceUID
                ]
    return [context.finish(result)]
