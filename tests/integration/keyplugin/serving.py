"""Serves a provider in the test process, as main does, without background and signals."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keycore.service.kms import KmsProvider
from keycore.settings import ProviderSettings
from keyplugin.endpoint import claim_socket
from keyplugin.metrics import ProviderMetrics
from keyplugin.server import TOKEN_CALLS_MAX, kms_server


@contextmanager
def served(
    provider: KmsProvider,
    socket: Path,
    *,
    parallelism: int = 1,
    token_calls_max: int = TOKEN_CALLS_MAX,
    metrics: ProviderMetrics | None = None,
) -> Iterator[None]:
    """Serve ``provider`` on ``socket`` until the block ends."""
    with (
        claim_socket(ProviderSettings(socket=socket)) as claim,
        kms_server(
            provider, parallelism=parallelism, token_calls_max=token_calls_max, metrics=metrics
        ) as server,
    ):
        claim.bind(server.add_insecure_port)
        server.start()
        claim.publish()
        yield
