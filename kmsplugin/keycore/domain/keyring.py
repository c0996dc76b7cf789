"""What one node keeps beside the store, so that it can serve without it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from keycore.domain.ids import VersionId
from keycore.domain.instances import Installation
from keycore.domain.keys import Key
from keycore.domain.providers import Provider


@dataclass(frozen=True, slots=True)
class NodeKeyring:
    """A provider with its keys, as one node knew them; wrapped material only.

    Attributes:
        node: whose keyring it is; nobody else may use it, because of ``uses``.
        keys: the keys of all live activations, each with the versions that these need.
        uses: encryptions by version that were reserved in the store for a start without
            it; whoever takes some first writes the keyring without these.
        saved_at: when it was written.
    """

    installation: Installation
    node: str
    provider: Provider
    keys: tuple[Key, ...]
    uses: tuple[tuple[VersionId, int], ...]
    saved_at: datetime
