"""Which frames of a study a plan reads, and why the others are not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from engine.errors import ImageError, NotAnImageError
from engine.findings import NotRead
from engine.imaging import check_image
from engine.plan import FramePolicy
from engine.study import Instance, Series, Study

T = TypeVar("T")


@dataclass(frozen=True)
class Selection:
    """The frames to read.

    Parameters
    ----------
    frames : tuple of (Instance, int)
        With frame numbers from 1, in reading order.
    not_read : tuple of NotRead
    damaged : bool
        Whether an image that might have been read cannot be.
    """

    frames: tuple[tuple[Instance, int], ...]
    not_read: tuple[NotRead, ...]
    damaged: bool


def select_frames(study: Study, policy: FramePolicy) -> Selection:
    """Choose what is read of a study."""
    frames: list[tuple[Instance, int]] = []
    not_read: list[NotRead] = list(study.unusable)
    damaged = False
    for series in study.series:
        images: list[Instance] = []
        refused: dict[str, list[Instance]] = {}
        for instance in series.instances:
            try:
                check_image(instance)
            except ImageError as error:
                refused.setdefault(str(error), []).append(instance)
                damaged |= not isinstance(error, NotAnImageError)
            else:
                images.append(instance)
        not_read += [_refusal(series, reason, instances) for reason, instances in refused.items()]
        chosen = [
            (image, frame)
            for image in _spread(_in_order(images), _limit(images, policy))
            for frame in _spread(range(1, image.number_of_frames + 1), policy.frames_per_instance)
        ]
        frames += chosen
        total = sum(image.number_of_frames for image in images)
        if len(chosen) < total:
            reason = f"the plan reads {len(chosen)} of the series' {total} images, spread evenly about its middle"
            not_read.append(NotRead(series.series_instance_uid, None, reason))
    return Selection(tuple(frames), tuple(not_read), damaged)


def _refusal(series: Series, reason: str, instances: Sequence[Instance]) -> NotRead:
    if len(instances) == 1:
        return NotRead(series.series_instance_uid, instances[0].sop_instance_uid, reason)
    return NotRead(series.series_instance_uid, None, f"{len(instances)} objects of the series: {reason}")


def _limit(images: Sequence[Instance], policy: FramePolicy) -> int:
    slices = bool(images) and all(_position(image) is not None for image in images)
    if slices and policy.slices_per_series == "all":
        return len(images)
    return int(policy.slices_per_series) if slices else policy.images_per_series


def _spread(items: Sequence[T], count: int) -> list[T]:
    """Take `count` items, spread evenly; a single one is the middle one."""
    if len(items) <= count:
        return list(items)
    return [items[len(items) * (2 * place + 1) // (2 * count)] for place in range(count)]


def _in_order(images: Iterable[Instance]) -> list[Instance]:
    """Slices along their normal (PS3.3 C.7.6.2.1.1), other images as they stand."""
    images = list(images)
    positions = [_position(image) for image in images]
    if any(position is None for position in positions):
        return images
    places = {id(image): position for image, position in zip(images, positions, strict=True) if position is not None}
    return sorted(images, key=lambda image: places[id(image)])


def _position(image: Instance) -> float | None:
    """Where a slice lies along its normal, in mm; None for an image that is no slice."""
    try:
        position = np.array([float(v) for v in image.header.ImagePositionPatient])
        orientation = np.array([float(v) for v in image.header.ImageOrientationPatient])
        return float(position @ np.cross(orientation[:3], orientation[3:]))
    except (AttributeError, TypeError, ValueError):
        return None
