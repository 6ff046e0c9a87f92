"""Accounts: who may sign in to the console, who has, and who tried."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from sqlalchemy import delete, func, select, update

from dicom_node.ledger.models import Account, ConsoleSession, FailedSignIn
from dicom_node.ledger.part import Part
from engine.errors import NodeError

_SEEN_EVERY: Final = timedelta(minutes=1)
"""A session's last use is entered no more often than this; a page that is watched asks every few seconds."""


class Role(StrEnum):
    """What a person may do; each may do what those before it may."""

    VIEWER = "viewer"
    """Sees."""
    REVIEWER = "reviewer"
    """Also reviews findings."""
    ADMINISTRATOR = "administrator"
    """Also changes what the node does."""

    def includes(self, other: Role) -> bool:
        """Whether it may do what the other may."""
        ranks = list(Role)
        return ranks.index(self) >= ranks.index(other)


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Who asks for a page."""

    name: str
    role: Role


@dataclass(frozen=True, slots=True)
class AccountRecord:
    """A local account; its password's hash is not told."""

    name: str
    role: Role
    created_at: datetime
    changed_at: datetime


@dataclass(frozen=True, slots=True)
class Failures:
    """How often signing in failed: with a name, from an address, and with that name from that address."""

    of_name: int
    of_address: int
    of_both: int


class Accounts(Part):
    """The console's accounts and sessions. A session is kept by the hash of its token, which only its browser has."""

    def add(self, name: str, role: Role, password: str) -> None:
        """Make an account; `password` is its hash.

        Raises
        ------
        NodeError
            If there is one of that name.
        """
        with self._database.write() as session:
            if session.get(Account, name) is not None:
                raise NodeError(f"there is an account {name} already", advice="`console user passwd` changes it")
            now = self._clock()
            session.add(Account(name=name, role=role, password=password, created_at=now, changed_at=now))

    def remove(self, name: str) -> None:
        """Remove an account and end its sessions.

        Raises
        ------
        NodeError
            If there is none of that name.
        """
        with self._database.write() as session:
            session.delete(self._known(session.get(Account, name), name))
            session.execute(delete(ConsoleSession).where(ConsoleSession.name == name, ConsoleSession.role.is_(None)))

    def change(self, name: str, *, password: str | None = None, role: Role | None = None) -> None:
        """Set an account's password (its hash) or role; a new password ends its sessions.

        Raises
        ------
        NodeError
            If there is none of that name.
        """
        with self._database.write() as session:
            account = self._known(session.get(Account, name), name)
            account.role, account.changed_at = role or Role(account.role), self._clock()
            if password is not None:
                account.password = password
                local = (ConsoleSession.name == name) & ConsoleSession.role.is_(None)
                session.execute(delete(ConsoleSession).where(local))

    def all(self) -> list[AccountRecord]:
        """The accounts, by name."""
        with self._database.read() as session:
            rows = session.scalars(select(Account).order_by(Account.name)).all()
        return [AccountRecord(row.name, Role(row.role), row.created_at, row.changed_at) for row in rows]

    def password(self, name: str) -> str | None:
        """The hash of an account's password; None where there is no such account."""
        with self._database.read() as session:
            return session.scalar(select(Account.password).where(Account.name == name))

    def open_session(self, token: str, name: str, lasts: timedelta, role: Role | None = None) -> None:
        """Begin a session, by its token's hash; with a role that somebody else has vouched for, no account needed.

        Sessions and failures that are over are forgotten by the way.
        """
        with self._database.write() as session:
            now = self._clock()
            session.execute(delete(ConsoleSession).where(ConsoleSession.expires_at <= now))
            session.add(ConsoleSession(token=token, name=name, role=role, seen_at=now, expires_at=now + lasts))

    def session(self, token: str, idle: timedelta) -> SignedIn | None:
        """Whose session it is; None once it is over, was idle for too long, or its account is gone."""
        now = self._clock()
        with self._database.read() as session:
            row = session.get(ConsoleSession, token)
            if row is None or row.expires_at <= now or row.seen_at + idle <= now:
                return None
            role = row.role or session.scalar(select(Account.role).where(Account.name == row.name))
        if role is None:
            return None
        if now - row.seen_at >= _SEEN_EVERY:
            with self._database.write() as session:
                session.execute(update(ConsoleSession).where(ConsoleSession.token == token).values(seen_at=now))
        return SignedIn(row.name, Role(role))

    def close_session(self, token: str) -> None:
        """End a session."""
        with self._database.write() as session:
            session.execute(delete(ConsoleSession).where(ConsoleSession.token == token))

    def close_sessions(self, name: str) -> int:
        """End all sessions of a name, whoever vouched for it; how many those were."""
        with self._database.write() as session:
            ended = delete(ConsoleSession).where(ConsoleSession.name == name).returning(ConsoleSession.token)
            return len(session.scalars(ended).all())

    def failures(self, who: str, address: str, period: timedelta) -> Failures:
        """How often signing in failed lately."""
        since = self._clock() - period
        query = select(func.count()).select_from(FailedSignIn).where(FailedSignIn.at > since)
        as_one, there = FailedSignIn.who == who, FailedSignIn.address == address
        with self._database.read() as session:
            counts = [session.scalar(query.where(which)) or 0 for which in (as_one, there, as_one & there)]
        return Failures(*counts)

    def note_failure(self, who: str, address: str, period: timedelta) -> None:
        """Remember that signing in failed; `who` is a hash, since people type passwords where a name belongs."""
        with self._database.write() as session:
            now = self._clock()
            session.execute(delete(FailedSignIn).where(FailedSignIn.at <= now - period))
            session.add(FailedSignIn(who=who, address=address, at=now))

    def forget_failures(self, who: str, address: str | None = None) -> None:
        """Somebody has signed in, or has a new password: what failed there, or anywhere, counts no more."""
        forgotten = delete(FailedSignIn).where(FailedSignIn.who == who)
        if address is not None:
            forgotten = forgotten.where(FailedSignIn.address == address)
        with self._database.write() as session:
            session.execute(forgotten)

    @staticmethod
    def _known(row: Account | None, name: str) -> Account:
        if row is None:
            raise NodeError(f"there is no account {name}", advice="`console user list` names them")
        return row
