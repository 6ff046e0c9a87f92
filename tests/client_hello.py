"""What a TLS client says first (RFC 8446 4.1.2)."""

import ssl


def client_hello() -> bytes:
    """A whole ClientHello record."""
    said = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.wrap_bio(ssl.MemoryBIO(), said, server_hostname="localhost").do_handshake()
    except ssl.SSLWantReadError:
        return said.read()
    raise AssertionError("a handshake takes two")
