"""The images that a reading refers to: what every result needs to know of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.uid import UID

from engine.errors import WriteError
from engine.findings import Region
from sr_writer.iods import known_class
from sr_writer.patient import TYPE_2, patient_and_study, unfit_accession

_EDGE: Final = 1e-6
"""Pixels by which a coordinate may exceed the image for the sake of floating point; it is then clipped to the edge."""


@dataclass(frozen=True, slots=True)
class SourceImage:
    """One source instance.

    Parameters
    ----------
    header : Dataset
        As received, without pixel data.
    study_instance_uid, series_instance_uid, sop_instance_uid, sop_class_uid : str
    modality : str
    rows, columns : int
        0 for an object that is no image.
    frames : int
    """

    header: Dataset
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    modality: str
    rows: int
    columns: int
    frames: int

    @classmethod
    def from_header(cls, header: Dataset) -> SourceImage:
        """Read the header of one instance.

        Raises
        ------
        WriteError
            If it lacks one of its UIDs; SOP class and instance may stand in the file meta information only.
        """
        meta = getattr(header, "file_meta", None) or Dataset()
        sop_class_uid = str(header.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID") or "")
        sop_instance_uid = str(header.get("SOPInstanceUID") or meta.get("MediaStorageSOPInstanceUID") or "")
        study, series = str(header.get("StudyInstanceUID") or ""), str(header.get("SeriesInstanceUID") or "")
        for keyword, value in (
            ("SOPClassUID", sop_class_uid),
            ("SOPInstanceUID", sop_instance_uid),
            ("StudyInstanceUID", study),
            ("SeriesInstanceUID", series),
        ):
            if not UID(value).is_valid:
                raise WriteError(f"a source image has no valid {keyword}, so no result can refer to it")
        return cls(
            header=header,
            study_instance_uid=study,
            series_instance_uid=series,
            sop_instance_uid=sop_instance_uid,
            sop_class_uid=sop_class_uid,
            modality=str(header.get("Modality") or ""),
            rows=_count(header, "Rows", 0),
            columns=_count(header, "Columns", 0),
            frames=_count(header, "NumberOfFrames", 1),
        )

    @property
    def known_class_uid(self) -> str:
        """The SOP class under which the library is told of it."""
        return known_class(self.sop_class_uid, self.frames)

    @property
    def frame_of_reference_uid(self) -> str:
        """Its frame of reference; empty where it has none, or one by a name that no result could repeat."""
        uid = str(self.header.get("FrameOfReferenceUID") or "")
        return uid if UID(uid).is_valid else ""

    @property
    def is_image(self) -> bool:
        """Whether it has pixels that a region can lie on."""
        return self.rows > 0 and self.columns > 0

    def stand_in(self, **attributes: Any) -> Dataset:
        """Make a header that says only what a result may take from it.

        The writer's library is given these instead of the source headers: it then has no patient data to log, and no
        value of a careless device to trip over.

        Parameters
        ----------
        **attributes
            What to add, by keyword.
        """
        dataset = Dataset()
        for keyword in TYPE_2:
            setattr(dataset, keyword, "")
        dataset.SOPClassUID = self.known_class_uid
        dataset.SOPInstanceUID = self.sop_instance_uid
        dataset.StudyInstanceUID = self.study_instance_uid
        dataset.SeriesInstanceUID = self.series_instance_uid
        dataset.Modality = self.modality
        if self.is_image:
            dataset.Rows, dataset.Columns = self.rows, self.columns
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
        return dataset


@dataclass(frozen=True)
class Sources:
    """The instances of one study, each once.

    Parameters
    ----------
    images : tuple of SourceImage
        By series and number, whatever order they came in: the same study gives the same bytes.
    """

    images: tuple[SourceImage, ...]

    @classmethod
    def from_headers(cls, headers: Sequence[Dataset], study_instance_uid: str) -> Sources:
        """Read the headers of a study; what no result could refer to (an instance without UIDs) is left out.

        Raises
        ------
        WriteError
            If none is left, one is of another study, or two are of different patients.
        """
        images: dict[str, SourceImage] = {}
        patients: set[str] = set()
        unusable: WriteError | None = None
        for header in headers:
            try:
                image = SourceImage.from_header(header)
            except WriteError as error:
                unusable = unusable or error
                continue
            if image.study_instance_uid != study_instance_uid:
                raise WriteError(f"a source image is not of the study {study_instance_uid} that was read")
            images.setdefault(image.sop_instance_uid, image)
            patients.add(str(header.get("PatientID") or ""))
        if not images:
            raise unusable or WriteError("results need at least one source header to belong to a study")
        if len(patients) > 1:
            raise WriteError(
                "the study's images carry different PatientID values",
                advice="Correct the study at its source: results cannot be filed under two patients.",
            )
        return cls(tuple(sorted(images.values(), key=_order)))

    @cached_property
    def by_uid(self) -> dict[str, SourceImage]:
        """Instances by SOP instance UID."""
        return {image.sop_instance_uid: image for image in self.images}

    @cached_property
    def patient(self) -> Dataset:
        """Patient and study modules, in UTF-8, of the first image."""
        first = next((image for image in self.images if image.is_image), self.images[0])
        return patient_and_study(first.header)

    @cached_property
    def unfit_accession(self) -> str:
        """The Accession Number of the first image where it is none that `patient` can carry."""
        first = next((image for image in self.images if image.is_image), self.images[0])
        return unfit_accession(first.header)

    def image(self, sop_instance_uid: str) -> SourceImage:
        """Find an image.

        Raises
        ------
        WriteError
            If it is not among the sources, or has no pixels.
        """
        image = self.by_uid.get(sop_instance_uid)
        if image is None:
            raise WriteError(f"a region refers to {sop_instance_uid}, which is not among the source images")
        if not image.is_image:
            raise WriteError(f"a region refers to {sop_instance_uid}, which is no image")
        return image

    def place(self, region: Region) -> SourceImage:
        """Find the image that a region lies on, and check that it lies on it.

        Raises
        ------
        WriteError
            If the image is unknown, the frame does not exist, or the box leaves the image.
        """
        image = self.image(region.sop_instance_uid)
        if region.frame > image.frames:
            raise WriteError(
                f"a region refers to frame {region.frame} of {region.sop_instance_uid}, which has {image.frames}"
            )
        _, _, x1, y1 = region.box
        if x1 > image.columns + _EDGE or y1 > image.rows + _EDGE:
            raise WriteError(
                f"box {_box(region)} leaves the image of {image.columns} x {image.rows} pixels"
                f" ({region.sop_instance_uid}, frame {region.frame})"
            )
        return image

    def evidence(self) -> list[Dataset]:
        """Stand-ins of all source images, or of all sources where none is an image."""
        images = [image for image in self.images if image.is_image] or list(self.images)
        return [image.stand_in() for image in images]


def _order(image: SourceImage) -> tuple[str, int, str]:
    try:
        number = int(image.header.get("InstanceNumber") or 0)
    except (TypeError, ValueError):
        number = 0
    return image.series_instance_uid, number, image.sop_instance_uid


def unique(images: Iterable[SourceImage]) -> list[SourceImage]:
    """Drop repeats, keep the order."""
    return list({image.sop_instance_uid: image for image in images}.values())


def _count(header: Dataset, keyword: str, default: int) -> int:
    try:
        return max(int(header.get(keyword) or default), default)
    except (TypeError, ValueError) as error:
        raise WriteError(f"{keyword} of a source image is not a number") from error


def _box(region: Region) -> str:
    return "(" + ", ".join(f"{edge:g}" for edge in region.box) + ")"
