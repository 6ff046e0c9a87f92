"""``python -m dicom_node.cli``: the same as ``medrega-pacs``."""

from dicom_node.cli.app import main

main()
