"""Explanations: which route a study takes, and of each one before it why not. For a person at a terminal.

They quote values of headers, and so go to no log and into no ledger.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dicom_node.routing.facts import Facts
from dicom_node.routing.rules import Route


@dataclass(frozen=True, slots=True)
class Look:
    """What one route makes of a study.

    Parameters
    ----------
    route : str
    matched : bool or None
        None where it was not looked at, since another one decides.
    why : str
    """

    route: str
    matched: bool | None
    why: str


def explain(routes: Sequence[Route], facts: Facts, named: str | None = None) -> Iterator[Look]:
    """Look at a study with every route, in their order.

    Parameters
    ----------
    routes : sequence of Route
    facts : Facts
    named : str, optional
        The route that the entry point names.
    """
    decided = named
    for route in routes:
        if decided is not None:
            own = route.name == named
            why = f"the entry point {facts.values.get('called_aet', '')} names it" if own else f"{decided} decides"
            yield Look(route.name, True if own else None, why)
        elif route.matches(facts):
            decided = route.name
            yield Look(route.name, True, route.condition.text if route.condition else "takes every study")
        else:
            yield Look(route.name, False, route.condition.why_not(facts) if route.condition else "")
