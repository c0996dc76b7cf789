"""The REST face's own server with nothing behind it: what HTTP, TLS and one answer cost.

`python -m benchmarks.bare_server PORT WORKERS CERTIFICATE_DIRECTORY` serves until it is
killed. Every request gets the same answer, as long as that to a wrap.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import orjson
import uvloop
from starlette.types import Receive, Scope, Send

from keycli.supervisor import end_with_parent
from keycore.adapters.system_clock import SystemClock
from keycore.settings import IssuerSettings, RestSettings, Settings
from keyrest.limits import Limits
from keyrest.listening import open_listeners
from keyrest.main import SWITCH_SECONDS
from keyrest.server import RestServer
from keyrest.tls import TlsFiles

_ANSWER = orjson.dumps(
    {
        "ciphertext": "x" * 104,
        "keyVersion": {
            "id": "00000000-0000-4000-8000-000000000000",
            "creationDate": "2030-01-01T00:00:00Z",
        },
    }
)
_HEADERS = [
    (b"content-length", b"%d" % len(_ANSWER)),
    (b"content-type", b"application/vnd.ibm.kms.key_action+json"),
]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Read the body, as every handler must, and answer."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": _ANSWER})


def main() -> None:
    """Serve with as many processes as were asked for."""
    port, workers, state_dir = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    nobody = IssuerSettings(name="none", url="https://localhost", audience="none")
    settings = Settings(state_dir=state_dir, rest=RestSettings(port=port, issuers=(nobody,)))
    listeners = open_listeners(settings.rest, workers)
    mine, parent = 0, os.getpid()
    for number in range(1, workers):
        if os.fork() == 0:
            end_with_parent(parent)
            mine = number
            break
    sys.setswitchinterval(SWITCH_SECONDS)
    listeners = [listeners[mine]]

    async def serve() -> None:
        tls = TlsFiles(settings, SystemClock())
        await RestServer(app, tls, Limits()).serve(listeners, asyncio.Event())

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


if __name__ == "__main__":
    main()
