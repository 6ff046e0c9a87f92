"""DICOMweb (PS3.18): the node as a client of other servers, and as a server of its own."""
