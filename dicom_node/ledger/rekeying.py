"""The key of a ledger: which one it is encrypted with, and how it gets another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import (
    Column,
    Connection,
    String,
    Table,
    bindparam,
    delete,
    exists,
    insert,
    select,
    text,
    type_coerce,
    update,
)

from dicom_node.ledger.models import Base, KeyMark
from dicom_node.ledger.sealing import LedgerKey, Sealed
from engine.errors import NodeError

_AT_ONCE: Final = 1000
_TOLD: Final = "`medrega-pacs ledger rekey` (the node stopped, see deploy/ENCRYPTION.md)"


def check_key(connection: Connection, key: LedgerKey | None, *, claim: bool = False) -> None:
    """Make sure that a ledger is used with its key.

    Parameters
    ----------
    connection : Connection
    key : LedgerKey or None
    claim : bool
        Whether this is to be the key of a ledger that is empty.

    Raises
    ------
    NodeError
        If the key is another one, or only one of the two says that there is one.
    """
    mark = connection.scalar(select(KeyMark.mark))
    if mark is None and key is not None:
        if any(connection.scalar(select(exists().select_from(table))) for table in _sealed_tables()):
            raise NodeError("ledger.key_file is set, and the ledger is not encrypted", advice=_TOLD)
        if claim:
            connection.execute(insert(KeyMark).values(id=1, mark=key.mark))
    elif mark is not None and key is None:
        raise NodeError("the ledger is encrypted, and ledger.key_file does not say with which key", advice="set it")
    elif key is not None and mark != key.mark:
        raise NodeError(
            "ledger.key_file is not the key that the ledger is encrypted with", advice=f"another file, or {_TOLD}"
        )


def rekey(
    connection: Connection, old: LedgerKey | None, new: LedgerKey | None, on_table: Callable[[str, int, int], object]
) -> None:
    """Encrypt what stands under one key, or in the clear, with another, or not at all; in one transaction.

    Parameters
    ----------
    connection : Connection
        In a transaction.
    old, new : LedgerKey or None
    on_table : callable
        Called with a table's name, how many of its rows are done, and how many it has.

    Raises
    ------
    NodeError
        If the ledger is not encrypted with the old key, or is already with the new one.
    """
    mark = connection.scalar(select(KeyMark.mark))
    if mark == (new.mark if new is not None else None):
        raise NodeError("the ledger is so already: it needs no other key")
    if mark != (old.mark if old is not None else None):
        raise NodeError(
            "the ledger is not encrypted with the old key" if old is not None else "the ledger is encrypted",
            advice="name by --old-key the file with the key that it is encrypted with",
        )
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    operations = Operations(MigrationContext.configure(connection))
    links = [] if connection.dialect.name == "sqlite" else _links()
    if not links:
        connection.execute(text("PRAGMA defer_foreign_keys = ON"))
    for table, link in links:
        operations.drop_constraint(str(link.name), table.name, type_="foreignkey")
    for table in _sealed_tables():
        _rekey(connection, table, old, new, on_table)
    for table, link in links:
        operations.create_foreign_key(
            str(link.name),
            table.name,
            link.referred_table.name,
            link.column_keys,
            [one.column.name for one in link.elements],
        )
    connection.execute(delete(KeyMark))
    if new is not None:
        connection.execute(insert(KeyMark).values(id=1, mark=new.mark))


def _rekey(
    connection: Connection,
    table: Table,
    old: LedgerKey | None,
    new: LedgerKey | None,
    on_table: Callable[[str, int, int], object],
) -> None:
    """Change the sealed columns of a table, by their bare values."""
    sealed = [column for column in table.c if isinstance(column.type, Sealed)]
    keys = list(table.primary_key)
    rows = connection.execute(select(*map(_bare, keys), *map(_bare, sealed))).all()
    change = (
        update(table)
        .where(*(_bare(column) == bindparam(f"key_{column.name}", type_=_bare_type(column)) for column in keys))
        .values({column: bindparam(f"new_{column.name}", type_=_bare_type(column)) for column in sealed})
    )
    for start in range(0, len(rows), _AT_ONCE):
        values = []
        for row in rows[start : start + _AT_ONCE]:
            value = {f"key_{column.name}": row[place] for place, column in enumerate(keys)}
            for place, column in enumerate(sealed, len(keys)):
                value[f"new_{column.name}"] = _changed(row[place], column, old, new)
            values.append(value)
        connection.execute(change, values)
        on_table(table.name, start + len(values), len(rows))


def _changed(value: str | None, column: Column[Any], old: LedgerKey | None, new: LedgerKey | None) -> str | None:
    if value is None:
        return None
    assert isinstance(column.type, Sealed)  # noqa: S101 - who asks has looked
    plain = column.type.ways(old)[1](value) if old is not None else value
    return column.type.ways(new)[0](plain) if new is not None else plain


def _bare(column: Column[Any]) -> Any:
    return type_coerce(column, _bare_type(column))


def _bare_type(column: Column[Any]) -> Any:
    return String() if isinstance(column.type, Sealed) else column.type


def _sealed_tables() -> list[Table]:
    return [
        table for table in Base.metadata.sorted_tables if any(isinstance(column.type, Sealed) for column in table.c)
    ]


def _links() -> list[tuple[Table, Any]]:
    """Foreign keys of sealed columns, with their tables."""
    return [
        (table, link)
        for table in _sealed_tables()
        for link in table.foreign_key_constraints
        if any(isinstance(column.type, Sealed) for column in link.columns)
    ]
