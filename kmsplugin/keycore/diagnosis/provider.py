"""Checks on this node's KMS v2 provider: binding, nodes, expiry, keyring."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from keycore.adapters.keyring_file import FileKeyring
from keycore.diagnosis.examination import Examination
from keycore.diagnosis.findings import Verdict, fault, ok, skipped, warning
from keycore.domain.keyring import NodeKeyring
from keycore.domain.providers import Node, Provider, nodes_without
from keycore.errors import IntegrityError, KeyplaneError

_SILENT: Final = timedelta(minutes=2)
"""A node tells every ten seconds that it is alive."""

_EXPIRES_SOON: Final = timedelta(days=30)


def check_binding(examination: Examination) -> Iterator[Verdict]:
    """Has the provider a key to encrypt with?"""
    name = examination.settings.provider.name
    with examination.records.reading() as unit:
        provider = unit.find_provider(name)
        others = [each.name for each in unit.providers() if each.name != name]
    examination.provider = provider
    if provider is None:
        known = f" (the store knows {', '.join(others)})" if others else ""
        yield fault(
            f"provider {name} has no key{known}",
            f"keyplane provider set {name} --key KEY_ID, or correct provider.name",
        )
    elif provider.active is None:
        yield fault(
            f"provider {name} waits until every registered node has loaded its first key",
            f"start the provider on them; see: keyplane provider show {name}",
        )
    else:
        yield ok(
            f"provider {name} encrypts with key {provider.active.key_id}; "
            f"{len(provider.live)} key_ids can be decrypted"
        )


def check_generations(examination: Examination) -> Iterator[Verdict]:
    """Is every key version there that etcd may need? None may be deleted or lack its material."""
    provider = _bound(examination)
    faults = []
    with examination.records.reading() as unit:
        for activation in provider.live:
            try:
                version = unit.key(activation.key_id).version(activation.version_id)
            except KeyplaneError as error:
                faults.append(fault(error.message, error.hint or _LOST))
                continue
            if version is None or version.wrapped is None:
                faults.append(
                    fault(f"key {activation.key_id} lacks the version of a live key_id", _LOST)
                )
    yield from faults
    if not faults:
        yield ok(f"the keys of all {len(provider.live)} live key_ids are there")


def check_expiry(examination: Examination) -> Iterator[Verdict]:
    """Has the provider's key expired, or will it soon? Neither stops the provider."""
    key_id, now = _bound(examination).key_id, examination.clock.now()
    with examination.records.reading() as unit:
        expires_at = unit.key(key_id).expires_at
    if expires_at is None:
        yield ok(f"key {key_id} does not expire")
    elif expires_at - now > _EXPIRES_SOON:
        yield ok(f"key {key_id} expires at {_rfc3339(expires_at)}")
    else:
        passed = "expired" if expires_at <= now else "expires"
        yield warning(
            f"key {key_id} {passed} at {_rfc3339(expires_at)}; the provider goes on all the same",
            "bind another key: keyplane provider set; or move the key's expiration date",
        )


def check_nodes(examination: Examination) -> Iterator[Verdict]:
    """Do all nodes live, and does a rotation wait for one?"""
    settings, provider = examination.settings.provider, _bound(examination)
    with examination.records.reading() as unit:
        nodes = unit.nodes(provider.name)
    verdicts = list(_judged_nodes(nodes, provider, settings.node, examination.clock.now()))
    if settings.node not in {node.name for node in nodes}:
        verdicts.append(
            warning(
                f"this node, {settings.node}, has not registered yet",
                "start it: keyplane serve provider; or correct provider.node",
            )
        )
    yield from verdicts or [ok(f"all {len(nodes)} registered nodes live and have loaded all keys")]


def check_keyring(examination: Examination) -> Iterator[Verdict]:
    """Is there a keyring of this node, signed by this token, to start from without the store?"""
    path, provider = examination.settings.keyring, examination.settings.provider
    try:
        kept = examination.keyring = FileKeyring(path, examination.token).load()
    except IntegrityError:
        yield fault(
            f"the keyring {path} is not what this token has signed",
            f"find out who changed it; then {_OUTDATED}",
        )
        return
    if kept is None:
        yield warning(
            f"there is no keyring {path}: this node could not start without the store",
            "start the provider once while the store answers",
        )
    elif (kept.provider.name, kept.node) != (provider.name, provider.node):
        yield fault(
            f"the keyring is that of provider {kept.provider.name} on node {kept.node}",
            "remove it, or correct provider.keyring; the provider writes its own",
        )
    else:
        verdicts = list(_judged_keyring(path, kept))
        age = _age(kept.saved_at, examination.clock.now())
        yield from verdicts or [ok(f"{path}, written {age} ago, is signed by this token")]


def check_keyring_ledger(examination: Examination) -> Iterator[Verdict]:
    """Does the keyring hold what the store holds?"""
    kept, provider = examination.keyring, _bound(examination)
    if kept is None:
        yield skipped("a keyring")
    elif kept.installation.id != examination.installation.id:
        yield fault(
            f"the keyring is that of another installation ({kept.installation.id})",
            "remove it; the provider writes a new one",
        )
    elif missing := len(set(provider.live) - set(kept.provider.live)):
        yield warning(
            f"{missing} of the store's {len(provider.live)} live key_ids differ in the keyring",
            _OUTDATED,
        )
    else:
        yield ok(f"it holds all {len(provider.live)} live key_ids of the store")


_LOST: Final = "restore the store from a backup: objects in etcd may need this key"

_OUTDATED: Final = "start the provider while the store answers: it writes the keyring anew"


def _bound(examination: Examination) -> Provider:
    if examination.provider is None:
        raise AssertionError("the check needs the one on the binding")
    return examination.provider


def _judged_nodes(
    nodes: list[Node], provider: Provider, own: str, now: datetime
) -> Iterator[Verdict]:
    pending = provider.pending
    waited_for = nodes_without(pending, nodes) if pending else []
    if waited_for:
        yield warning(
            f"a rotation waits for {', '.join(waited_for)}",
            "start the provider there, or give the node up: keyplane nodes remove NODE",
        )
    for node in nodes:
        if now - node.seen_at > _SILENT:
            there = f"start the provider there, or give it up: keyplane nodes remove {node.name}"
            yield warning(
                f"node {node.name} was last seen {_age(node.seen_at, now)} ago",
                "start it: keyplane serve provider" if node.name == own else there,
            )


def _judged_keyring(path: Path, kept: NodeKeyring) -> Iterator[Verdict]:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        yield warning(f"{path} is open to others (mode {mode:04o})", f"chmod 0600 {path}")
    if not kept.uses:
        yield warning(
            "the keyring holds no uses: a start without the store could decrypt only", _OUTDATED
        )


def _age(moment: datetime, now: datetime) -> str:
    seconds = max(0, (now - moment) // timedelta(seconds=1))
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} seconds"


def _rfc3339(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
