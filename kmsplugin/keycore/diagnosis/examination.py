"""What the checks look at, and what they leave for one another."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from keycore.diagnosis.survey import Survey
from keycore.diagnosis.token_process import TokenProcess
from keycore.domain.instances import Installation
from keycore.domain.keyring import NodeKeyring
from keycore.domain.providers import Provider
from keycore.ports import Clock, Store
from keycore.service.records import Records
from keycore.settings import Settings


@dataclass(repr=False)
class Examination:
    """One look at one node. A check reads only what the checks that it needs have set.

    Attributes:
        load_settings: reads the settings; the first check calls it.
        config_file: the file that they come from, ``None`` for the defaults.
        clock: where time comes from.
        opened: closes in the end what checks have opened.
        encryption_config: the API server's file, where it is to be looked at.
        settings: set by the check ``configuration``.
        store: for reading only, set by the check ``store``.
        installation: the verified row, set by the check ``installation``.
        survey: what was seen of all records, made by the check ``records``.
        provider: the verified record of this node's provider, or ``None`` for an unbound
            one, set by the check ``provider binding``.
        keyring: this node's, or ``None`` without one, set by the check ``keyring``.
    """

    load_settings: Callable[[], Settings]
    config_file: Path | None
    clock: Clock
    opened: ExitStack
    encryption_config: Path | None = None
    settings: Settings = field(init=False)
    store: Store = field(init=False)
    installation: Installation = field(init=False)
    survey: Survey = field(init=False)
    provider: Provider | None = field(init=False, default=None)
    keyring: NodeKeyring | None = field(init=False, default=None)

    @cached_property
    def token(self) -> TokenProcess:
        """The process that talks to the token, started at first use."""
        process = TokenProcess(self.settings)
        self.opened.callback(process.close)
        return process

    @property
    def records(self) -> Records:
        """The records of the store, verified by the token."""
        return Records(self.store, self.token)
