"""Which frames of a study a plan reads, and why the others are not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from engine.errors import ImageError, NotAnImageError
from engine.findings import NotRead, SeriesRead
from engine.imaging import check_image
from engine.plan import Plan, Task, laterality_of, mismatch, view_of
from engine.series import SLICED, Slice, Volume, is_derived, left_out, rank_volumes
from engine.study import Instance, Series, Study

T = TypeVar("T")
View = tuple[str, str | None, str | None]
Usable = list[tuple[Series, list[Instance]]]


@dataclass(frozen=True)
class Selection:
    """The frames to read.

    Parameters
    ----------
    frames : tuple of (Instance, int)
        With frame numbers from 1, in reading order: the preferred volume first, its slices by their places.
    skipped : mapping of (str, int) to frozenset of Task
        The plan's tasks that are not asked of a frame, by SOP Instance UID and frame number.
    series : tuple of SeriesRead
        The series that they are of, and why those.
    not_read : tuple of NotRead
    damaged : bool
        Whether an image that the plan is for cannot be read.
    """

    frames: tuple[tuple[Instance, int], ...]
    skipped: Mapping[tuple[str, int], frozenset[Task]]
    series: tuple[SeriesRead, ...]
    not_read: tuple[NotRead, ...]
    damaged: bool


def select_frames(study: Study, plan: Plan) -> Selection:
    """Choose what is read of a study: first which images and series, then which of their frames."""
    selector = _Selector(plan)
    usable = selector.without_raw([(series, selector.usable(series)) for series in study.series])
    usable = selector.without_derived(usable)
    volumes = [Volume.of(series, images) for series, images in usable]
    for volume, reason in selector.choose([volume for volume in volumes if volume]):
        selector.take_slices(volume, reason)
    for (series, images), slices in zip(usable, volumes, strict=True):
        if images and slices is None:
            selector.take_images(series, images)
    # A damaged image of a series that was passed over for a better one is missed by nobody.
    passed_over = {series.series_instance_uid for series, images in usable if images} - {
        one.series_instance_uid for one in selector.series
    }
    not_read = (*study.unusable, *selector.not_read)
    damaged = bool(selector.damaged - passed_over)
    return Selection(tuple(selector.frames), selector.skipped, tuple(selector.series), not_read, damaged)


class _Selector:
    """What gathers while a study's frames are selected."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.frames: list[tuple[Instance, int]] = []
        self.skipped: dict[tuple[str, int], frozenset[Task]] = {}
        self.series: list[SeriesRead] = []
        self.not_read: list[NotRead] = []
        self.damaged: set[str] = set()

    def usable(self, series: Series) -> list[Instance]:
        """The images of a series that the plan is for and its rules do not leave out."""
        images: list[Instance] = []
        refused: dict[str, list[Instance]] = {}
        for instance in series.instances:
            reason = self._excluded(instance)
            try:
                check_image(instance)
            except NotAnImageError as error:
                reason = str(error)
            except ImageError as error:
                if reason is None:
                    reason = str(error)
                    self.damaged.add(series.series_instance_uid)
            if reason is None:
                images.append(instance)
            else:
                refused.setdefault(reason, []).append(instance)
        self.not_read += [_refusal(series, reason, instances) for reason, instances in refused.items()]
        return images

    def _excluded(self, instance: Instance) -> str | None:
        if what := left_out(instance, self.plan.series):
            return f"it is {what}"
        if why := mismatch(self.plan.match, instance):
            return f"the plan {self.plan.name!r} is not for it: {why}"
        return None

    def without_raw(self, usable: Usable) -> Usable:
        """Leave out images for processing where the same view is there for presentation (PS3.3 C.8.11.1)."""
        shown = {_view(image) for _, images in usable for image in images if _intent(image) == "FOR PRESENTATION"}
        kept: Usable = []
        for series, images in usable:
            raw = [_intent(image) == "FOR PROCESSING" and _told(_view(image)) in shown for image in images]
            if any(raw):
                reason = "it is for processing, and the same view is there for presentation"
                self.not_read.append(
                    _refusal(series, reason, [x for x, is_raw in zip(images, raw, strict=True) if is_raw])
                )
            kept.append((series, [x for x, is_raw in zip(images, raw, strict=True) if not is_raw]))
        return kept

    def without_derived(self, usable: Usable) -> Usable:
        """Leave out what was computed from a study's slices, where these are there (PS3.3 C.7.6.1.1.2)."""
        derived = [bool(images) and images[0].modality in SLICED and is_derived(images[0]) for _, images in usable]
        originals = {
            series.modality for (series, images), is_one in zip(usable, derived, strict=True) if images and not is_one
        }
        kept: Usable = []
        for (series, images), is_one in zip(usable, derived, strict=True):
            if is_one and series.modality in originals and "derived" in self.plan.series.leave_out:
                reason = "it is derived from other images (a reformat, a projection or a map)"
                self.not_read.append(NotRead(series.series_instance_uid, None, reason))
            else:
                kept.append((series, images))
        return kept

    def choose(self, volumes: Sequence[Volume]) -> list[tuple[Volume, str]]:
        """The volumes to read, and why those."""
        rules = self.plan.series
        whole = [volume for volume in volumes if len(volume.places) >= rules.minimum_slices]
        if whole:  # where all are short, a site may have sent nothing else
            reason = f"it has fewer than {rules.minimum_slices} slices, as planning and monitoring scans have"
            short = [volume.series for volume in volumes if len(volume.places) < rules.minimum_slices]
            self.not_read += [NotRead(series.series_instance_uid, None, reason) for series in short]
        ranked = rank_volumes(whole or volumes, rules)
        self.not_read += [NotRead(r.volume.series.series_instance_uid, None, r.reason) for r in ranked if not r.read]
        return [(volume, reason) for volume, read, reason in ranked if read]

    def take_slices(self, volume: Volume, reason: str) -> None:
        policy = self.plan.frames
        count = len(volume.places) if policy.slices_per_series == "all" else policy.slices_per_series
        chosen = spread_by_place(volume.places, count)
        asked = {task: {id(one) for one in spread_by_place(chosen, n)} for task, n in policy.slices_for.items()}
        for one in chosen:
            if skipped := frozenset(task for task, few in asked.items() if id(one) not in few):
                self.skipped[one.instance.sop_instance_uid, one.frame] = skipped
        self._take(volume.series, [(one.instance, one.frame) for one in chosen], len(volume.slices), reason)

    def take_images(self, series: Series, images: Sequence[Instance]) -> None:
        policy = self.plan.frames
        chosen = [
            (image, frame)
            for image in _spread(images, policy.images_per_series)
            for frame in _spread(range(1, image.number_of_frames + 1), policy.frames_per_instance)
        ]
        total = sum(image.number_of_frames for image in images)
        self._take(series, chosen, total, f"{total} image{'s' * (total > 1)} that the plan is for")

    def _take(self, series: Series, chosen: Sequence[tuple[Instance, int]], total: int, reason: str) -> None:
        self.frames += chosen
        self.series.append(SeriesRead(series.series_instance_uid, reason))
        if len(chosen) < total:
            left = f"the plan reads {len(chosen)} of the series' {total} images, spread evenly about its middle"
            self.not_read.append(NotRead(series.series_instance_uid, None, left))


def _refusal(series: Series, reason: str, instances: Sequence[Instance]) -> NotRead:
    if len(instances) == 1:
        return NotRead(series.series_instance_uid, instances[0].sop_instance_uid, reason)
    return NotRead(series.series_instance_uid, None, f"{len(instances)} objects of the series: {reason}")


def _intent(image: Instance) -> str:
    return str(image.header.get("PresentationIntentType") or "")


def _view(image: Instance) -> View:
    return image.modality, view_of(image.header), laterality_of(image.header)


def _told(view: View) -> View | None:
    """A view that the header tells, of a breast with its side; two that are not told need not be the same."""
    modality, position, side = view
    return view if position and (side or modality != "MG") else None


def _spread(items: Sequence[T], count: int) -> list[T]:
    """Take `count` items, spread evenly; a single one is the middle one."""
    if len(items) <= count:
        return list(items)
    return [items[len(items) * (2 * place + 1) // (2 * count)] for place in range(count)]


def spread_by_place(slices: Sequence[Slice], count: int) -> list[Slice]:
    """Take `count` slices, evenly spread over the distance that they cover, gaps or not."""
    if len(slices) <= count:
        return list(slices)
    first, last = slices[0].plane.place, slices[-1].plane.place
    left = list(range(len(slices)))
    for place in range(count):
        wanted = first + (last - first) * (2 * place + 1) / (2 * count)
        left.remove(min(left, key=lambda n: abs(slices[n].plane.place - wanted)))
    return [one for n, one in enumerate(slices) if n not in left]
