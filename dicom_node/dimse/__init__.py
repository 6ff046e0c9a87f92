"""DICOM over the network: associations as an acceptor and as a requestor (PS3.7, PS3.8)."""
