"""A host with several audit chains on its disk, for tests that attack them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from keycore.adapters.audit_chain import ChainWriter
from keycore.adapters.audit_sealing import Sealing
from keycore.audit_examination import AuditExamination, examine_audit
from keycore.bootstrap import Core, wire
from keycore.domain.audit_chain import (
    NO_DIGEST,
    Chain,
    Seal,
    chain_of,
    checkpoint_line,
    digest_of,
    encode_plain,
    parse_line,
    seal_of,
)
from keycore.ports import AuditHead
from keycore.settings import ProviderSettings, Settings, StoreSettings
from tests.fakes.installation import FakeInstallation, fake_installation

Change = Callable[[list[bytes]], object]


class AuditedHost:
    """Chains of a REST face in slots, in files of about nine lines, all sealed to their end."""

    def __init__(self, state_dir: Path, *, shared: bool = False) -> None:
        """Make the host; ``shared`` puts its store into a database that others use too."""
        self.installation: FakeInstallation = fake_installation()
        self.settings = Settings(
            state_dir=state_dir,
            provider=ProviderSettings(node="node-a"),
            store=StoreSettings(postgresql="host=db dbname=db user=db" if shared else None),
        )
        self.directory = self.settings.audit_dir

    @property
    def core(self) -> Core:
        here = self.installation
        return wire(self.settings, here.store, here.token, here.audit, here.clock)

    def start(self, *, node: str = "node-a") -> tuple[ChainWriter, Sealing]:
        """Start a process that logs: it takes the first free slot."""
        writer, sealing = self.process(node=node)
        writer.go_on()
        writer.tell_what_was_found()
        return writer, sealing

    def process(self, *, node: str = "node-a") -> tuple[ChainWriter, Sealing]:
        """Return what a process logs with, before it has opened anything."""
        writer = ChainWriter(
            self.directory,
            "rest",
            node=node,
            file_bytes=1600,
            clock=self.installation.clock,
        )
        sealing = Sealing(
            writer,
            threading.Lock(),
            look=writer.look,
            signer=self.installation.token,
            heads=self.installation.store,
            clock=self.installation.clock,
        )
        return writer, sealing

    def write(self, *bursts: int) -> None:
        """Have a process write bursts of lines with a checkpoint behind each."""
        writer, sealing = self.start()
        for burst in bursts:
            append(writer, burst)
            sealing.run_once(now=True)
            assert sealing.fault == ""
        writer.close()

    def names(self) -> list[str]:
        return sorted(path.name for path in self.directory.glob("*.jsonl"))

    def edit(self, name: str, change: Change) -> None:
        path = self.directory / name
        lines = path.read_bytes().splitlines(keepends=True)
        change(lines)
        path.write_bytes(b"".join(lines))

    def heads(self) -> list[AuditHead]:
        return list(self.installation.store.audit_heads())

    def head(self, name: str = "rest.0") -> AuditHead:
        (found,) = [head for head in self.heads() if head.name == name]
        return found

    def examine(self, *archives: Path, archived: bool = False) -> AuditExamination:
        return examine_audit(self.core, archives=archives, archived=archived)

    def forge_checkpoint(self, name: str, mac: bytes = bytes(32)) -> None:
        """Append a checkpoint of the newest line that no HSM has made."""
        line = parse_line((self.directory / name).read_bytes().splitlines()[-1])
        head = self.head()
        assert line is not None
        seal = Seal(line.number, bytes.fromhex(line.digest), head.at, mac)
        chain = Chain(head.chain, head.node, head.name)
        text = checkpoint_line(chain, seal, number=line.number + 1, previous=line.digest)
        self.edit(name, lambda lines: lines.append(text + b"\n"))

    def found(self) -> list[tuple[str, str, int, str, int]]:
        """Return what is wrong: name, damage, line, file, and its line there."""
        return [
            (report.chain.name, each.damage.value, each.line, each.file, each.place)
            for report in self.examine().chains
            if (each := report.finding)
        ]


def append(writer: ChainWriter, count: int) -> None:
    """Write lines as decisions do."""
    for _ in range(count):
        fields = {"operation": "key.get", "outcome": "ok", "actor": "alice"}
        writer.append(encode_plain({"n": writer.number + 1, "prev": writer.previous, **fields}))


def recompute(lines: list[bytes], *, previous: str = NO_DIGEST) -> None:
    """Make lines hang together again, as far as that can be done without the HSM."""
    chain = Chain("", "", "")
    for at, text in enumerate(lines):
        line = parse_line(text.rstrip(b"\n"))
        assert line is not None
        chain = chain_of(line) or chain
        seal = seal_of(line)
        if seal:
            if seal.line <= at:
                before = parse_line(lines[seal.line - 1].rstrip(b"\n"))
                assert before is not None
                seal = replace(seal, digest=bytes.fromhex(before.digest))
            new = checkpoint_line(chain, seal, number=line.number, previous=previous)
        else:
            new = encode_plain({**line.fields, "prev": previous})  # type: ignore[arg-type]
        lines[at] = new + b"\n"
        previous = digest_of(new)
