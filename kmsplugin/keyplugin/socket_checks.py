"""Checks on the socket of this node's provider, for ``keyplane doctor``."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import Final

from keycore.diagnosis.examination import Examination
from keycore.diagnosis.findings import Check, Outcome, Verdict, fault, ok, skipped, warning
from keycore.diagnosis.plan import NodeCheck
from keycore.domain.providers import Provider
from keycore.settings import ProviderSettings
from keyplugin.directory import group_id_of
from keyplugin.kms_caller import CallError, KmsCaller
from keyplugin.rules import faults_of_status
from keyplugin.socket_place import group_name, judged_directory, judged_file, server_of, user_name

_LEARNING_SECONDS: Final = 2
"""How long after a rotation a process may still report the former ``key_id``."""


def check_directory(examination: Examination) -> Iterator[Verdict]:
    """May anybody else put a socket into the place of ours?"""
    settings = examination.settings.provider
    directory = settings.socket.parent
    if settings.socket_group is not None:
        group_id_of(settings.socket_group)
    if not directory.is_dir():
        yield _of_missing_directory(settings)
        return
    yield judged_directory(settings.socket)
    if not os.access(directory, os.W_OK | os.X_OK):
        yield fault(
            f"uid {os.geteuid()} may make no socket in {directory}",
            f"chown {os.geteuid()} {directory}",
        )


def check_socket(examination: Examination) -> Iterator[Verdict]:
    """Is there a socket as the settings have it, and does somebody serve it?"""
    settings = examination.settings.provider
    path = settings.socket
    if not os.path.lexists(path):
        yield warning(f"there is no {path}: nobody serves", "start it: keyplane serve provider")
        yield skipped("a provider that serves")
        return
    place = judged_file(path)
    yield place
    if place.outcome is Outcome.FAULT:
        return
    server = server_of(path)
    if server is None:
        yield warning(
            f"nobody serves {path}; the socket was left by a process that was killed",
            "start it: keyplane serve provider, which replaces the socket",
        )
        yield skipped("a provider that serves")
        return
    yield ok(f"served by {server}")
    if server.uid != os.geteuid():
        yield warning(
            f"the provider runs as {user_name(server.uid)}, and the state is uid {os.geteuid()}'s",
            "every keyplane process must run as the owner of the state directory",
        )
    yield from _differing(settings)


def check_answer(examination: Examination) -> Iterator[Verdict]:
    """Does the running provider answer as kube-apiserver wants it?"""
    with KmsCaller(examination.settings.provider.socket) as caller:
        try:
            status = caller.status()
        except CallError as error:
            yield fault(
                f"Status was not answered ({error.code.name})",
                "see the provider's log; restart it if it hangs",
            )
            return
        milliseconds = 1000 * caller.seconds["Status"][0]
    faults = faults_of_status(status.version, status.healthz, status.key_id)
    for what in faults:
        yield fault(f"the provider answers, and {what}", "its healthz and its log say what to do")
    if not faults:
        yield ok(f"Status is healthy, answered in {milliseconds:.1f} ms")


def check_key_id(examination: Examination) -> Iterator[Verdict]:
    """Does the running provider encrypt with what the store says?"""
    provider = examination.provider
    active = _active_id(provider)
    with KmsCaller(examination.settings.provider.socket) as caller:
        try:
            reported = caller.status().key_id
        except CallError as error:
            yield fault(f"Status was not answered ({error.code.name})", "see the provider's log")
            return
    if reported == active:
        yield ok("the provider reports the key_id that is active in the store")
    elif provider is not None and reported in {each.id for each in provider.live}:
        yield warning(
            "the provider reports another live key_id than the active one",
            f"right after a rotation, look again in {_LEARNING_SECONDS} seconds; otherwise its "
            "store or token is away: see its log",
        )
    else:
        yield fault(
            "the provider reports a key_id that is not of this store",
            "it serves another installation: compare its settings with these",
        )


SOCKET_CHECKS: Final[tuple[NodeCheck, ...]] = (
    Check("socket directory", check_directory, ("configuration",)),
    Check("socket", check_socket, ("configuration",)),
    Check("provider", check_answer, ("socket",)),
    Check("provider key_id", check_key_id, ("provider", "provider binding")),
)
"""They work with the provider running or not."""


def _of_missing_directory(settings: ProviderSettings) -> Verdict:
    directory = settings.socket.parent
    parent = next(each for each in directory.parents if each.is_dir())
    if os.access(parent, os.W_OK | os.X_OK):
        return ok(f"{directory} does not exist yet; the provider makes it")
    return fault(
        f"{directory} does not exist, and uid {os.geteuid()} may not make it in {parent}",
        f"install -d -m 0750 -o {os.geteuid()} {directory}; under /run at each boot "
        "(systemd: RuntimeDirectory=)",
    )


def _differing(settings: ProviderSettings) -> Iterator[Verdict]:
    """Say where a served socket is not as the settings have it."""
    status = settings.socket.lstat()
    mode, wanted = stat.S_IMODE(status.st_mode), int(settings.socket_mode, 8)
    if mode != wanted:
        yield warning(
            f"the socket has mode {mode:04o}, and provider.socket_mode is {wanted:04o}",
            "restart the provider",
        )
    if settings.socket_group and status.st_gid != group_id_of(settings.socket_group):
        yield warning(
            f"the socket belongs to the group {group_name(status.st_gid)}, and "
            f"provider.socket_group is {settings.socket_group}",
            "restart the provider",
        )


def _active_id(provider: Provider | None) -> str:
    if provider is None or provider.active is None:
        raise AssertionError("the check needs the one on the binding")
    return provider.active.id
