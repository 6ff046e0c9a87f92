"""Service classes that a listener offers besides verification and storage, each by its SOP classes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol

from pynetdicom import AE, evt

_NO_SUCH_SOP_CLASS = 0x0118


class Service(Protocol):
    """What a listener can be given."""

    @property
    def sop_classes(self) -> Collection[str]:
        """The abstract syntaxes whose messages it answers."""

    def equip(self, entity: AE) -> list[evt.EventHandlerType]:
        """Add its presentation contexts; returns its handlers."""


def equip(entity: AE, services: Collection[Service]) -> list[evt.EventHandlerType]:
    """Have an application entity offer services; returns their handlers.

    The library takes one handler for a kind of message; of several services the one answers whose SOP class it is.
    """
    handlers: list[evt.EventHandlerType] = []
    answers: dict[evt.InterventionEvent, dict[str, Any]] = {}
    for service in services:
        for kind, handler, *_ in service.equip(entity):
            if isinstance(kind, evt.InterventionEvent):
                answers.setdefault(kind, {}).update(dict.fromkeys(service.sop_classes, handler))
            else:
                handlers.append((kind, handler))
    return [*handlers, *((kind, _dispatch(table)) for kind, table in answers.items())]


def _dispatch(table: dict[str, Any]) -> Any:
    def answer(event: evt.Event) -> Any:
        handler = table.get(str(event.context.abstract_syntax))
        return handler(event) if handler is not None else (_NO_SUCH_SOP_CLASS, None)

    return answer
