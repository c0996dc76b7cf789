"""Checks on the store and its records."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from keycore.adapters.sql_examination import StoreFacts, examine_store
from keycore.adapters.sql_store import SqlStore
from keycore.adapters.sql_tables import SCHEMA_REVISION
from keycore.bootstrap import is_set_up, not_initialised, store_place
from keycore.diagnosis.examination import Examination
from keycore.diagnosis.findings import Verdict, fault, ok, refusal, skipped, warning
from keycore.diagnosis.survey import Survey
from keycore.errors import IntegrityError
from keycore.service.use_budget import RESERVED_MAX

_FILE_SECONDS: Final = 10.0

_RECORDS_SECONDS: Final = 30.0
"""About a million keys; what is left out is told."""

_SHOWN_MAX: Final = 5


def check_store(examination: Examination) -> Iterator[Verdict]:
    """Does the store open, is its file whole, and is its schema this release's?"""
    settings = examination.settings
    if not settings.store.embedded:
        yield from _of_server(examination)
        return
    path = settings.database
    if not path.is_file():
        raise not_initialised(settings)
    facts = examine_store(path, seconds=_FILE_SECONDS)
    if not facts.is_current:
        yield from _of_other_schema(examination, facts)
        return
    for line in facts.damage:
        yield fault(f"{path} is damaged: {line}", "stop every process and restore a backup")
    if facts.damage:
        return
    examination.store = store = SqlStore(path)
    examination.opened.callback(store.close)
    whole = "its file is whole" if facts.checked else "its file is too large to be checked"
    yield ok(f"{path} opens, {whole}; schema {facts.revision}, {facts.sequence} writes")


def check_installation(examination: Examination) -> Iterator[Verdict]:
    """Has this token signed this store?"""
    settings, token = examination.settings, examination.token.ask("token")
    try:
        with examination.records.reading() as unit:
            installation = unit.installation()
    except IntegrityError:
        yield fault(
            f"the store in {settings.state_dir} was not signed by this token",
            "connect the token that it was initialised with, or restore the matching store",
        )
        return
    if installation is None:
        raise not_initialised(settings)
    examination.installation = installation
    if installation.token_serial != token["serial"]:
        yield warning(
            f"the store was made with the token {installation.token_serial}, "
            f"and this one is {token['serial']}",
            "a clone with the same keys is as good; otherwise connect the other one",
        )
    else:
        yield ok(f"installation {installation.id}: its record MAC is this token's")


def check_records(examination: Examination) -> Iterator[Verdict]:
    """Is every record what the token has signed?"""
    survey = examination.survey = Survey(examination.records, examination.clock.now())
    survey.run(time.monotonic() + _RECORDS_SECONDS)
    for error in survey.broken[:_SHOWN_MAX]:
        yield refusal(error)
    if len(survey.broken) > _SHOWN_MAX:
        yield fault(f"{len(survey.broken) - _SHOWN_MAX} records more fail their integrity check")
    if survey.left:
        yield warning(
            f"{survey.left} keys were not verified, because there are so many",
            "each is verified before it is used",
        )
    if not survey.broken:
        yield ok(f"{survey.verified} records are as the token signed them")


def check_uses(examination: Examination) -> Iterator[Verdict]:
    """How near is a key version to the bound of its encryptions?"""
    uses = examination.store.uses(examination.survey.current)
    far = {version: used for version, used in uses.items() if used >= RESERVED_MAX // 2}
    for version, used in far.items():
        key_id = examination.survey.current[version]
        judge = fault if used >= RESERVED_MAX else warning
        yield judge(
            f"the current version of key {key_id} has made {used / RESERVED_MAX:.0%} of the "
            "ciphertexts that it may",
            f"rotate it: keyplane keys rotate {key_id}",
        )
    if not far:
        most = max(uses.values(), default=0)
        yield ok(f"no key version has made more than {most} of {RESERVED_MAX} ciphertexts")


def _of_server(examination: Examination) -> Iterator[Verdict]:
    """Look at a store in PostgreSQL; no lock and no upgrade."""
    settings = examination.settings
    if not is_set_up(settings):
        raise not_initialised(settings)
    store = SqlStore(store_place(settings))
    examination.opened.callback(store.close)
    revision = store.revision()
    if revision != SCHEMA_REVISION:
        facts = StoreFacts(revision, damage=(), checked=False, sequence=0)
        yield from _of_other_schema(examination, facts)
        return
    examination.store = store
    sequence = store.changes_since(0).sequence
    yield ok(f"{store.title} takes writes; schema {revision}, {sequence} writes")


def _of_other_schema(examination: Examination, facts: StoreFacts) -> Iterator[Verdict]:
    if facts.revision is None:
        raise not_initialised(examination.settings)
    if not facts.is_earlier:
        yield fault(
            f"the store has the schema {facts.revision}, which this release does not know",
            "run the release that made it, or a later one",
        )
        return
    yield warning(
        f"the store has the schema {facts.revision} of an earlier release",
        "make a backup; the next start or command, such as keyplane status, brings it up to date",
    )
    yield skipped("this release's schema")
