"""The ledger's tables. None holds patient data: a study is its UIDs and what happened to it.

What leads from a row to a patient is `Sealed`: encrypted, where the settings name a key.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from sqlalchemy import (
    BigInteger,
    DateTime,
    Enum,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    text,
    true,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

from dicom_node.ledger.sealing import Sealed, SealedUid
from dicom_node.ledger.states import State


class DeliveryState(StrEnum):
    """Where one result stands with one destination."""

    PENDING = "PENDING"
    DELIVERED = "DELIVERED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    SUPERSEDED = "SUPERSEDED"
    """It did not arrive before a review or a retraction took its place, and is not sent any more."""


UNDELIVERED: Final = (DeliveryState.FAILED, DeliveryState.CANCELLED)
"""What a person may have sent again."""


class CommitmentState(StrEnum):
    """Where a transaction of storage commitment stands."""

    OPEN = "OPEN"
    """The report has not come, or has not been heard."""
    REPORTED = "REPORTED"
    FAILED = "FAILED"
    """Given up."""


class UtcDateTime(TypeDecorator[datetime]):
    """Points in time, aware and in UTC; SQLite itself forgets the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """To UTC; refuses what has no zone."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a point in time in the ledger needs its zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Aware, in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


UID = String(64)
SEALED_UID = SealedUid()
RUN_ID = String(32)
AE_TITLE = String(16)
DIGEST = String(64)
BIG = BigInteger().with_variant(Integer(), "sqlite")  # SQLite numbers rows by itself only in an INTEGER key
STATE = Enum(State, native_enum=False, length=16)
DELIVERY_STATE = Enum(DeliveryState, native_enum=False, length=16)
COMMITMENT_STATE = Enum(CommitmentState, native_enum=False, length=16)


class Base(DeclarativeBase):
    """Constraints are named by rule, so that every database and every migration agrees on the names."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Study(Base):
    """A study of which at least one image arrived."""

    __tablename__ = "study"

    study_instance_uid: Mapped[str] = mapped_column(SEALED_UID, primary_key=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    held_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """Since when it is held by hand: nothing of it is completed or read until it is released."""


class Run(Base):
    """One reading of a study, with all images that had arrived when it was complete."""

    __tablename__ = "run"
    __table_args__ = (
        UniqueConstraint("study_instance_uid", "number"),
        # Two listeners that get the first images of a study at the same moment open one run, not two.
        Index(
            "uq_run_receiving",
            "study_instance_uid",
            unique=True,
            sqlite_where=text("state = 'RECEIVING'"),
            postgresql_where=text("state = 'RECEIVING'"),
        ),
        Index("ix_run_state_last_image_at", "state", "last_image_at"),
        Index("ix_run_state_priority_created_at", "state", "priority", "created_at"),
        Index(
            "ix_run_latest_created_at",
            "created_at",
            "id",
            sqlite_where=text("latest = 1"),
            postgresql_where=text("latest"),
        ),
        Index(
            "ix_run_latest_state_changed_at",
            "state",
            "changed_at",
            sqlite_where=text("latest = 1"),
            postgresql_where=text("latest"),
        ),
    )

    id: Mapped[str] = mapped_column(RUN_ID, primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(SEALED_UID, ForeignKey("study.study_instance_uid"))
    number: Mapped[int]
    supersedes: Mapped[str | None] = mapped_column(RUN_ID, ForeignKey("run.id"))
    state: Mapped[State] = mapped_column(STATE, index=True)
    reason: Mapped[str] = mapped_column(Sealed, default="")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    changed_at: Mapped[datetime] = mapped_column(UtcDateTime)
    last_image_at: Mapped[datetime] = mapped_column(UtcDateTime)
    attempts: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    dispatched_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    reading_digest: Mapped[str | None] = mapped_column(DIGEST)
    route: Mapped[str | None] = mapped_column(String(64), index=True)
    priority: Mapped[int] = mapped_column(default=2, server_default="2")
    """Rank of the decision's priority, the most urgent is 0."""
    decision: Mapped[str | None] = mapped_column(Text)
    """`dicom_node.routing.decision.Decision` as JSON."""
    plan: Mapped[str | None] = mapped_column(String(128))
    """Plan that it was read by."""
    findings: Mapped[int | None]
    withheld: Mapped[str] = mapped_column(Text, default="", server_default="")
    """Destinations that get nothing of it as their settings are wrong, and why; the others get theirs."""
    gathers: Mapped[bool] = mapped_column(default=True, server_default=true())
    """Whether images still join it: it receives, or it was cancelled while it did."""
    queue: Mapped[str] = mapped_column(String(64), default="", server_default="")
    """Engine that is to read it, by the name of its queue; empty for any."""
    losses: Mapped[int] = mapped_column(default=0, server_default="0")
    """How often the worker that read it was lost."""
    latest: Mapped[bool] = mapped_column(default=True, server_default=true())
    """Whether its study stands where it does: no later run has come, but for such as brought nothing to read."""


class Instance(Base):
    """A stored SOP instance; `run_id` is the run that was receiving when it arrived."""

    __tablename__ = "instance"
    __table_args__ = (
        UniqueConstraint("path"),
        Index("ix_instance_study_instance_uid_sop_instance_uid", "study_instance_uid", "sop_instance_uid"),
        Index("ix_instance_sop_instance_uid", "sop_instance_uid"),
        Index(
            "ix_instance_unread",
            "study_instance_uid",
            sqlite_where=text("header IS NULL"),
            postgresql_where=text("header IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(BIG, primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(SEALED_UID, ForeignKey("study.study_instance_uid"))
    run_id: Mapped[str | None] = mapped_column(RUN_ID, ForeignKey("run.id"), index=True)
    series_instance_uid: Mapped[str] = mapped_column(SEALED_UID)
    sop_instance_uid: Mapped[str] = mapped_column(SEALED_UID)
    sop_class_uid: Mapped[str] = mapped_column(UID)
    transfer_syntax_uid: Mapped[str] = mapped_column(UID)
    calling_aet: Mapped[str] = mapped_column(AE_TITLE)
    called_aet: Mapped[str] = mapped_column(AE_TITLE, default="")
    """The entry point that it came by."""
    path: Mapped[str] = mapped_column(Sealed)
    received_at: Mapped[datetime] = mapped_column(UtcDateTime)
    committed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """When its sender was told that the node keeps it (PS3.4 J)."""
    purged_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """When its file was removed; the row stays, so that a repeat is told apart."""
    header: Mapped[str | None] = mapped_column(Text)
    """What routing needs of it as JSON, nothing that identifies a patient; None until it has been read."""


class Result(Base):
    """A stored result object of a run."""

    __tablename__ = "result"
    __table_args__ = (UniqueConstraint("run_id", "sop_instance_uid"),)

    id: Mapped[int] = mapped_column(BIG, primary_key=True)
    run_id: Mapped[str] = mapped_column(RUN_ID, ForeignKey("run.id"))
    sop_instance_uid: Mapped[str] = mapped_column(SEALED_UID, index=True)
    sop_class_uid: Mapped[str] = mapped_column(UID)
    series_instance_uid: Mapped[str] = mapped_column(SEALED_UID, index=True)
    kind: Mapped[str] = mapped_column(String(64))
    sha256: Mapped[str] = mapped_column(DIGEST)
    path: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    purged_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """When its file was removed; the row stays, so that the object is known when it comes back."""


class Delivery(Base):
    """One result on its way to one destination."""

    __tablename__ = "delivery"
    __table_args__ = (
        UniqueConstraint("result_id", "destination"),
        Index("ix_delivery_state_next_attempt_at", "state", "next_attempt_at"),
        # Each with the state: SQLite takes an index of the state alone for as good as one of what is looked for, and
        # would go through all that were ever DELIVERED.
        Index("ix_delivery_run_id_state_destination", "run_id", "state", "destination"),
        Index("ix_delivery_result_id_state", "result_id", "state"),
        Index("ix_delivery_destination_state_delivered_at", "destination", "state", "delivered_at"),
        Index(
            "ix_delivery_uncommitted",
            "destination",
            "state",
            sqlite_where=text("committed_at IS NULL"),
            postgresql_where=text("committed_at IS NULL"),
        ),
    )

    id: Mapped[int] = mapped_column(BIG, primary_key=True)
    run_id: Mapped[str] = mapped_column(RUN_ID, ForeignKey("run.id"))
    result_id: Mapped[int] = mapped_column(BIG, ForeignKey("result.id"))
    destination: Mapped[str] = mapped_column(String(64))
    state: Mapped[DeliveryState] = mapped_column(DELIVERY_STATE)
    attempts: Mapped[int] = mapped_column(default=0)
    status: Mapped[int | None]
    """Status of the last C-STORE response (PS3.4 B.2.3)."""
    reason: Mapped[str] = mapped_column(Sealed, default="")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    next_attempt_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    dispatched_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    delivered_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    committed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """When the destination said that it keeps the object (PS3.4 J)."""


class Review(Base):
    """A person's review of a run's reading; what it left is a file beside the reading."""

    __tablename__ = "review"

    run_id: Mapped[str] = mapped_column(RUN_ID, ForeignKey("run.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    """From 1; only the last one's results hold."""
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    account: Mapped[str] = mapped_column(String(64))
    reading_digest: Mapped[str] = mapped_column(DIGEST)
    """Of what it left."""
    verdicts: Mapped[str] = mapped_column(Text)
    """JSON: a verdict a finding, in the model's words and without the reviewer's, which might name a patient."""


class Lease(Base):
    """The right to work on something until a point in time, so that a message delivered twice is worked off once."""

    __tablename__ = "lease"

    key: Mapped[str] = mapped_column(String(128), primary_key=True)
    owner: Mapped[str] = mapped_column(String(128))
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)


class Event(Base):
    """The audit record: every transition, and what else a person should be able to read afterwards."""

    __tablename__ = "event"
    __table_args__ = (
        # In the words of the query: SQLite does not see that they mean the same.
        Index("ix_event_unaudited", "id", sqlite_where=text("audited = 0"), postgresql_where=text("NOT audited")),
    )

    id: Mapped[int] = mapped_column(BIG, primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(SEALED_UID, ForeignKey("study.study_instance_uid"), index=True)
    run_id: Mapped[str | None] = mapped_column(RUN_ID, ForeignKey("run.id"))
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    kind: Mapped[str] = mapped_column(String(32))
    """``transition``, ``conflict``, ``adopted``, ``retry``, ``cancel``, ``retract``, ``delivery``, ``attempt``..."""
    from_state: Mapped[State | None] = mapped_column(STATE)
    to_state: Mapped[State | None] = mapped_column(STATE)
    reason: Mapped[str] = mapped_column(Sealed, default="")
    audited: Mapped[bool] = mapped_column(default=False, server_default=true())
    """Whether the audit trail has had it; what older versions of the node wrote counts as told."""


class Tally(Base):
    """A count that only grows, of what metrics tell and no other table keeps; its labels hold nothing of a patient."""

    __tablename__ = "tally"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    first: Mapped[str] = mapped_column(String(128), primary_key=True, default="")
    second: Mapped[str] = mapped_column(String(128), primary_key=True, default="")
    value: Mapped[int] = mapped_column(BIG)


class Switch(Base):
    """What a person has switched by hand: a route, or the reading as a whole."""

    __tablename__ = "switch"

    name: Mapped[str] = mapped_column(String(96), primary_key=True)
    value: Mapped[str] = mapped_column(String(32))
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    reason: Mapped[str] = mapped_column(Text, default="")


class Commitment(Base):
    """A request that a destination commits to a run's results (PS3.4 J), by its transaction."""

    __tablename__ = "commitment"
    __table_args__ = (Index("ix_commitment_run_id_destination", "run_id", "destination"),)

    transaction_uid: Mapped[str] = mapped_column(UID, primary_key=True)
    run_id: Mapped[str] = mapped_column(RUN_ID, ForeignKey("run.id"))
    destination: Mapped[str] = mapped_column(String(64))
    state: Mapped[CommitmentState] = mapped_column(COMMITMENT_STATE)
    number: Mapped[int]
    """How many requests there were since the results arrived, this one included."""
    requested_at: Mapped[datetime] = mapped_column(UtcDateTime)
    next_attempt_at: Mapped[datetime] = mapped_column(UtcDateTime)
    """When it is asked anew, in a transaction of its own, unless everything was committed by then."""
    reason: Mapped[str] = mapped_column(Sealed, default="")


class CommitmentReport(Base):
    """A sender's request that the node commits to what it sent (PS3.4 J), until it has heard the answer."""

    __tablename__ = "commitment_report"
    __table_args__ = (Index("ix_commitment_report_state_next_attempt_at", "state", "next_attempt_at"),)

    transaction_uid: Mapped[str] = mapped_column(UID, primary_key=True)
    calling_aet: Mapped[str] = mapped_column(AE_TITLE)
    called_aet: Mapped[str] = mapped_column(AE_TITLE)
    instances: Mapped[str] = mapped_column(Sealed)
    """JSON: pairs of SOP class and SOP instance UID."""
    state: Mapped[CommitmentState] = mapped_column(COMMITMENT_STATE)
    attempts: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    next_attempt_at: Mapped[datetime] = mapped_column(UtcDateTime)
    reason: Mapped[str] = mapped_column(Sealed, default="")


class Sending(Base):
    """A sender's transfer (an association, a STOW-RS request, a C-GET) that brings images of a study."""

    __tablename__ = "sending"

    transfer: Mapped[str] = mapped_column(String(32), primary_key=True)
    study_instance_uid: Mapped[str] = mapped_column(
        SEALED_UID, ForeignKey("study.study_instance_uid"), primary_key=True, index=True
    )
    owner: Mapped[str] = mapped_column(String(128))
    """The process that receives it; once that is gone, so is the transfer."""
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    released: Mapped[bool] = mapped_column(default=False)
    """Whether its sender ended it in order; one that was aborted proves nothing."""


class Expectation(Base):
    """How many images a study has, by who knows it: the archive that it comes from, or its sender's headers."""

    __tablename__ = "expectation"

    study_instance_uid: Mapped[str] = mapped_column(
        SEALED_UID, ForeignKey("study.study_instance_uid"), primary_key=True
    )
    source: Mapped[str] = mapped_column(String(64))
    """Name of a source of the settings; empty for the headers."""
    instances: Mapped[int | None]
    """None where it knew nothing of the study, or could not be asked."""
    since: Mapped[datetime] = mapped_column(UtcDateTime)
    """When it gave this number first."""
    asked_at: Mapped[datetime] = mapped_column(UtcDateTime)
    """When it gave it last."""


class ClockZero(Base):
    """When a host's clock that never jumps stood at zero, by the ledger's clock: the proof that the latter jumped."""

    __tablename__ = "clock_zero"

    host: Mapped[str] = mapped_column(String(64), primary_key=True)
    zero_at: Mapped[datetime] = mapped_column(UtcDateTime)


class WorkitemState(StrEnum):
    """Where a workitem of a worklist stands with this node, as its performer (PS3.4 CC)."""

    CLAIMING = "CLAIMING"
    """The transaction UID is kept; the claim was sent, or is about to be."""
    CLAIMED = "CLAIMED"
    """It is this node's; its study is to be fetched."""
    READING = "READING"
    """The study is here, and goes its way."""
    ENDING = "ENDING"
    """How it ends is known (`outcome`), and is to be told."""
    COMPLETED = "COMPLETED"
    CANCELED = "CANCELED"
    LOST = "LOST"
    """Another performer has it, or it was ended from outside."""


WORKITEM_STATE = Enum(WorkitemState, native_enum=False, length=16)


class Workitem(Base):
    """A Unified Procedure Step that this node claims, so that after a crash it goes on with what it has claimed."""

    __tablename__ = "workitem"

    sop_instance_uid: Mapped[str] = mapped_column(SEALED_UID, primary_key=True)
    worklist: Mapped[str] = mapped_column(String(64), index=True)
    transaction_uid: Mapped[str] = mapped_column(UID)
    """The key to a claimed workitem (PS3.4 CC.1.1): who has it may change its state."""
    state: Mapped[WorkitemState] = mapped_column(WORKITEM_STATE)
    outcome: Mapped[str] = mapped_column(String(16), default="")
    """Of ENDING: COMPLETED or CANCELED."""
    study_instance_uid: Mapped[str | None] = mapped_column(SEALED_UID, index=True)
    run_id: Mapped[str | None] = mapped_column(RUN_ID)
    plan: Mapped[str | None] = mapped_column(String(128))
    priority: Mapped[int]
    """As of `Run`."""
    cancel_asked: Mapped[bool] = mapped_column(default=False)
    progress: Mapped[int] = mapped_column(default=0)
    """Percent, as last told."""
    attempts: Mapped[int] = mapped_column(default=0)
    """To fetch its study."""
    next_attempt_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    reason: Mapped[str] = mapped_column(Sealed, default="")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    changed_at: Mapped[datetime] = mapped_column(UtcDateTime)


class DestinationHealth(Base):
    """How a destination does, and whether anything is sent there now: one row for all processes and hosts."""

    __tablename__ = "destination"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    paused_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """Since when a person holds it back."""
    failures: Mapped[int] = mapped_column(default=0)
    """How often in a row it was not reached."""
    retry_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    """Not before then is it asked whether it answers again; None while its circuit is closed."""
    reason: Mapped[str] = mapped_column(Text, default="")
    """Of the last failure; kept after it has passed."""
    failed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    answered_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class Account(Base):
    """A person who signs in to the console with a password."""

    __tablename__ = "account"

    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    role: Mapped[str] = mapped_column(String(16))
    """`dicom_node.ledger.accounts.Role`."""
    password: Mapped[str] = mapped_column(Text)
    """Argon2id hash (RFC 9106)."""
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    changed_at: Mapped[datetime] = mapped_column(UtcDateTime)


class ConsoleSession(Base):
    """A browser that has signed in."""

    __tablename__ = "console_session"

    token: Mapped[str] = mapped_column(DIGEST, primary_key=True)
    """SHA-256 of the token, which only the browser has."""
    name: Mapped[str] = mapped_column(String(64), index=True)
    role: Mapped[str | None] = mapped_column(String(16))
    """As an OpenID provider's groups gave it; None for an account's own."""
    seen_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)


class FailedSignIn(Base):
    """Somebody could not sign in, lately: who guesses is slowed down across restarts."""

    __tablename__ = "failed_sign_in"

    id: Mapped[int] = mapped_column(BIG, primary_key=True)
    who: Mapped[str] = mapped_column(DIGEST, index=True)
    """SHA-256 of the name: a password is now and then typed there."""
    address: Mapped[str] = mapped_column(String(64), index=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime)


class KeyMark(Base):
    """By which key the ledger is encrypted; no row where it is not."""

    __tablename__ = "key_mark"

    id: Mapped[int] = mapped_column(primary_key=True)
    mark: Mapped[str] = mapped_column(Text)
