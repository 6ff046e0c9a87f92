"""The node's settings: frozen, typed, each with a default and its help, parsed once at the edge and passed in."""

from dicom_node.settings.audit import AuditSettings
from dicom_node.settings.commitment import CommitmentPeer, CommitmentSettings
from dicom_node.settings.completion import CompletionSettings
from dicom_node.settings.console import ConsoleSettings, OidcSettings
from dicom_node.settings.delivery import DeliverySettings, Destination
from dicom_node.settings.dicomweb import DicomwebSettings, DicomwebUser, FrontSettings
from dicom_node.settings.engine import EngineSettings, ReadingSettings
from dicom_node.settings.limits import LimitsSettings
from dicom_node.settings.listener import Entry, ListenerSettings
from dicom_node.settings.metrics import MetricsSettings
from dicom_node.settings.node import BrokerSettings, DataSettings, LedgerSettings, LogSettings, SweeperSettings
from dicom_node.settings.retention import RetentionSettings
from dicom_node.settings.routing import RoutingSettings
from dicom_node.settings.settings import DEFAULT_FILE, ENVIRONMENT_PREFIX, Settings
from dicom_node.settings.sources import Source
from dicom_node.settings.tls import TlsSettings
from dicom_node.settings.worklist import Worklist

__all__ = [
    "DEFAULT_FILE",
    "ENVIRONMENT_PREFIX",
    "AuditSettings",
    "BrokerSettings",
    "CommitmentPeer",
    "CommitmentSettings",
    "CompletionSettings",
    "ConsoleSettings",
    "DataSettings",
    "DeliverySettings",
    "Destination",
    "DicomwebSettings",
    "DicomwebUser",
    "EngineSettings",
    "Entry",
    "FrontSettings",
    "LedgerSettings",
    "LimitsSettings",
    "ListenerSettings",
    "LogSettings",
    "MetricsSettings",
    "OidcSettings",
    "ReadingSettings",
    "RetentionSettings",
    "RoutingSettings",
    "Settings",
    "Source",
    "SweeperSettings",
    "TlsSettings",
    "Worklist",
]
