"""The command line ``medrega-pacs``."""

from dicom_node.cli.app import main

__all__ = ["main"]
