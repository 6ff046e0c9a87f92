"""Output profiles of the destinations, as they are checked before anything starts: without what draws and encodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dicom_node.settings import Destination
from engine.errors import SettingsError, WriteError
from engine.findings import LANGUAGES
from sr_writer import OutputProfile, load_profile


def output_profiles(destinations: Sequence[Destination]) -> dict[str, OutputProfile]:
    """Read the output profile of each destination, by the destination's name.

    Raises
    ------
    SettingsError
        If one is wrong, or two of one name say different things: results are told apart by it.
    """
    profiles: dict[str, OutputProfile] = {}
    by_name: dict[str, OutputProfile] = {}
    for destination in destinations:
        try:
            profile = load_profile(destination.profile)
            if destination.languages is not None:
                profile = replace(profile, languages=destination.languages)
        except WriteError as error:
            raise SettingsError(f"destination {destination.name}: {error}") from None
        same = replace(profile, languages=LANGUAGES)
        if by_name.setdefault(profile.name, same) != same:
            raise SettingsError(
                f"two output profiles have the name {profile.name} and are not the same",
                advice="give one of them another name",
            )
        profiles[destination.name] = profile
    return profiles
