"""An OpenID Connect issuer for one test: an HTTPS server on loopback, and credentials.

It serves the two documents that a relying party reads, discovery and keys, and signs
whatever claims a test wants.
"""

import json
import ssl
import threading
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, Final

from joserfc import jwt
from joserfc.jwk import ECKey

from testbed.authority import Authority
from testbed.loopback import HOST, free_port
from testbed.startable import Startable

AUDIENCE: Final = "keyplane"
"""What its credentials are for, unless a test says otherwise."""

_ALGORITHM: Final = "ES256"
_DISCOVERY: Final = "/.well-known/openid-configuration"
_KEYS: Final = "/keys"
_CONNECTION_SECONDS_MAX: Final = 10.0


class Issuer(Startable):
    """Runs in threads of this process; it can be stopped and started again."""

    issued: ClassVar[list[str]] = []
    """Every credential that any issuer of this process has signed, for the test that looks
    for them where they must not be."""

    def __init__(self, directory: Path) -> None:
        """Make a signing key and the server's certificate; nothing listens yet.

        Args:
            directory: For the certificates; made when missing.
        """
        authority = Authority(directory, "testbed issuer's authority")
        self.ca_file = authority.certificate_file
        self._certificate = authority.server("issuer")
        self._port = free_port()
        self._key = ECKey.generate_key("P-256", {"kid": "testbed-1", "use": "sig"})
        self._server: ThreadingHTTPServer | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """The issuer identifier, as in `iss`."""
        return f"https://{HOST}:{self._port}"

    def credential(
        self,
        subject: str,
        *,
        groups: Iterable[str] = (),
        ttl: timedelta = timedelta(minutes=10),
        claims: Mapping[str, Any] | None = None,
    ) -> str:
        """Sign a bearer credential.

        Args:
            subject: Whom it names.
            groups: The groups that it says the subject is in.
            ttl: How long it is good for; negative for one that has expired.
            claims: Replace or add claims; one that is None is left away.

        Returns:
            A JWT in compact form.
        """
        now = datetime.now(UTC)
        issued = min(now, now + ttl)
        good = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": subject,
            "groups": list(groups),
            "iat": int(issued.timestamp()),
            "exp": int((now + ttl).timestamp()),
        }
        wanted = {**good, **(claims or {})}
        wanted = {name: value for name, value in wanted.items() if value is not None}
        header = {"alg": _ALGORITHM, "typ": "JWT", "kid": self._key.kid}
        credential = jwt.encode(header, wanted, self._key)
        Issuer.issued.append(credential)
        return credential

    def start(self) -> None:
        """Listen; from now on the documents can be read."""
        server = ThreadingHTTPServer((HOST, self._port), self._handler())
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self._certificate.certificate, self._certificate.key)
        # The handshake is left to the thread of the connection: a client that is slow
        # would otherwise keep all others out.
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
        self._server = server
        self._thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="testbed-issuer"
        )
        self._thread.start()

    def stop(self) -> None:
        """Listen no more; credentials can still be signed."""
        server, thread = self._server, self._thread
        self._server = self._thread = None
        if server is not None and thread is not None:
            server.shutdown()
            thread.join()
            server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        metadata = {
            "issuer": self.url,
            "jwks_uri": f"{self.url}{_KEYS}",
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [_ALGORITHM],
        }
        public = {**self._key.as_dict(private=False), "alg": _ALGORITHM}
        documents = {_DISCOVERY: metadata, _KEYS: {"keys": [public]}}
        bodies = {path: json.dumps(document).encode() for path, document in documents.items()}

        class Handler(BaseHTTPRequestHandler):
            timeout = _CONNECTION_SECONDS_MAX

            def do_GET(self) -> None:
                body = bodies.get(self.path)
                self.send_response(404 if body is None else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *_: object) -> None:
                """Say nothing: what is read here is of no interest to a test."""

        return Handler
