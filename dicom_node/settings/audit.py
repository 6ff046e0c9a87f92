"""The audit trail: who did what, in a file that shows whether it was changed, and to an audit repository."""

from __future__ import annotations

from pydantic import Field

from dicom_node.settings.section import Port, Section
from dicom_node.settings.tls import TlsSettings


class AuditSettings(Section):
    """The audit trail (PS3.15 A.5), always kept in the data folder; to an audit repository as well if one is named."""

    source: str | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        description="What messages name as their source (AuditSourceID); listener.aet without.",
    )
    site: str | None = Field(
        default=None, min_length=1, max_length=64, description="The institution or its part (AuditEnterpriseSiteID)."
    )
    host: str | None = Field(
        default=None,
        min_length=1,
        description="Audit repository that gets each message by syslog over TLS (RFC 5424, RFC 5425). What it cannot "
        "take now it gets later.",
    )
    port: Port = Field(default=6514, description="Its TCP port.")
    tls: TlsSettings | None = Field(
        default=None,
        description="The node's certificate for it, and the authorities that its own must come from: true for those of "
        "[tls], or a table of its own. TLS is used in any case, without this with the system's authorities.",
    )
