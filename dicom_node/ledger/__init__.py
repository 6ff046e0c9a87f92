"""The ledger: states, leases and the audit record, in SQLite or PostgreSQL. Truth lives here and in the spool only."""

from dicom_node.ledger.ledger import Ledger, ledger_key, ledger_url
from dicom_node.ledger.models import DeliveryState
from dicom_node.ledger.part import LeaseLostError
from dicom_node.ledger.states import State

__all__ = ["DeliveryState", "LeaseLostError", "Ledger", "State", "ledger_key", "ledger_url"]
