"""TLS handshakes in memory, between a context of ours and one of a client."""

from __future__ import annotations

import ssl


def handshake(
    server: ssl.SSLContext,
    client: ssl.SSLContext,
    *,
    host: str = "localhost",
    session: ssl.SSLSession | None = None,
) -> ssl.SSLObject:
    """Shake hands and return the client's side, which has read what the server says first.

    Raises:
        ssl.SSLError: one of the two refused.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    theirs = client.wrap_bio(to_client, to_server, server_hostname=host, session=session)
    waiting = {ours, theirs}
    while waiting:
        for side in tuple(waiting):
            try:
                side.do_handshake()
                waiting.discard(side)
            except ssl.SSLWantReadError:
                pass
    # In TLS 1.3 a client hears only after its handshake whether it is let in.
    ours.write(b"welcome")
    assert theirs.read() == b"welcome"
    return theirs


def client_context(ca_file: str | None = None) -> ssl.SSLContext:
    """Return what a careful client uses: every check of RFC 5280, as Python 3.13 has it."""
    context = ssl.create_default_context(cafile=ca_file)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context
