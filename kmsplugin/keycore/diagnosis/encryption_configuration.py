"""Checks on the EncryptionConfiguration that kube-apiserver is given.

The file may hold keys of other providers, so nothing of it is quoted but names.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import unquote, urlsplit

import yaml

from keycore.diagnosis.examination import Examination
from keycore.diagnosis.findings import Outcome, Verdict, fault, ok, warning
from keycore.settings import ProviderSettings

_API_VERSION: Final = "apiserver.config.k8s.io/v1"

_KIND: Final = "EncryptionConfiguration"

_BYTES_MAX: Final = 1024 * 1024

_FIELDS: Final = frozenset({"apiVersion", "name", "endpoint", "timeout", "cachesize"})
"""Of a KMS provider; the API server decodes strictly and refuses any other."""

_DURATION: Final = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)(?:ns|us|µs|ms|s|m|h)")

_SECONDS: Final = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}

_TIMEOUT_SECONDS_MIN: Final = 1.0

_TIMEOUT_SECONDS_MAX: Final = 10.0

_PRINT: Final = "print one that fits: keyplane encryption-config"

_Rules: TypeAlias = "Sequence[Mapping[str, Any]]"


def check_encryption_configuration(examination: Examination) -> Iterator[Verdict]:
    """Would the API server call this provider, and encrypt with it?"""
    path = examination.encryption_config
    if path is None:
        raise AssertionError("the check is part of the plan only with a file")
    document = _document(path)
    if isinstance(document, Verdict):
        yield document
        return
    verdicts = [*_judged_file(path), *judged(document, examination.settings.provider)]
    if all(verdict.outcome is Outcome.OK for verdict in verdicts):
        yield ok(f"{path} calls this provider, and encrypts with it")
    yield from (verdict for verdict in verdicts if verdict.outcome is not Outcome.OK)


def judged(document: object, provider: ProviderSettings) -> Iterator[Verdict]:
    """Say what is wrong with a parsed configuration; nothing when all is well.

    Args:
        document: the YAML document.
        provider: the provider of this node, as the settings have it.
    """
    if not isinstance(document, Mapping):
        yield fault("the file holds no YAML object", _PRINT)
        return
    if document.get("apiVersion") != _API_VERSION or document.get("kind") != _KIND:
        yield fault(f"apiVersion and kind are not {_API_VERSION} and {_KIND}", _PRINT)
    rules = _rules(document)
    if rules is None:
        yield fault("resources is not a list of objects with resources and providers", _PRINT)
        return
    yield from _judged_rules(rules, provider)


def seconds_of(duration: str) -> float | None:
    """Return the seconds of a duration as Go writes it, such as ``3s`` or ``1m30s``."""
    parts = _DURATION.findall(duration)
    if not parts or "".join(parts) != duration:
        return None
    split = (re.fullmatch(r"([\d.]+)(\D+)", part) for part in parts)
    return sum(float(part[1]) * _SECONDS[part[2]] for part in split if part)


def _document(path: Path) -> object:
    """Return the YAML document of a file, or the fault of one that cannot be read."""
    try:
        with path.open("rb") as file:
            return yaml.safe_load(file.read(_BYTES_MAX))
    except OSError as error:
        return fault(f"{path} cannot be read: {error.strerror}", "run as a user that may read it")
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        return fault(f"{path} is not YAML{where}", _PRINT)


def _judged_file(path: Path) -> Iterator[Verdict]:
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & stat.S_IWOTH:
        yield fault(f"everybody may change {path}", f"chmod 0600 {path}")
    elif mode & stat.S_IROTH:
        yield warning(f"everybody may read {path}, and it may hold keys", f"chmod 0600 {path}")


def _rules(document: Mapping[str, Any]) -> _Rules | None:
    rules = document.get("resources")
    if not isinstance(rules, list) or not rules:
        return None
    for rule in rules:
        if not isinstance(rule, Mapping):
            return None
        for part in ("resources", "providers"):
            if not isinstance(rule.get(part), list) or not rule[part]:
                return None
        if not all(isinstance(each, Mapping) and len(each) == 1 for each in rule["providers"]):
            return None
    return rules


def _judged_rules(rules: _Rules, provider: ProviderSettings) -> Iterator[Verdict]:
    called = [kms for rule in rules for _, kms in _kms_of(rule)]
    names = [str(kms.get("name")) for kms in called]
    if provider.name not in names:
        known = ", ".join(sorted(set(names))) or "none"
        yield fault(
            f"no KMS provider is called {provider.name} (called so: {known})",
            "correct name, or provider.name if nothing was encrypted yet; " + _PRINT,
        )
        return
    if len(names) != len(set(names)):
        yield fault(
            "two KMS providers have one name, and the API server refuses that",
            "list all resources in one rule: this provider cannot stand in two",
        )
    for rule in rules:
        for place, kms in _kms_of(rule):
            if kms.get("name") == provider.name:
                yield from _judged_call(kms, provider)
                yield from _judged_order(rule, place)


def _kms_of(rule: Mapping[str, Any]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for place, each in enumerate(rule["providers"]):
        if isinstance(each.get("kms"), Mapping):
            yield place, each["kms"]


def _judged_call(kms: Mapping[str, Any], provider: ProviderSettings) -> Iterator[Verdict]:
    if kms.get("apiVersion", "v1") != "v2":
        yield fault("the provider's apiVersion is not v2; without one it is v1", "set it to v2")
    if kms.get("cachesize") is not None:
        yield fault("cachesize is set, which the API server refuses with v2", "remove the line")
    if unknown := sorted(str(name) for name in set(kms) - _FIELDS):
        yield fault(f"the provider has unknown fields: {', '.join(unknown)}", "remove them")
    yield from _judged_endpoint(str(kms.get("endpoint", "")), provider.socket)
    yield from _judged_timeout(kms.get("timeout"))


def _judged_endpoint(endpoint: str, socket: Path) -> Iterator[Verdict]:
    advice = f"set it to unix://{socket}, or correct provider.socket"
    parts = urlsplit(endpoint)
    path = unquote(parts.path)
    if parts.scheme != "unix":
        yield fault("the endpoint is not a unix:// URL", advice)
    elif path.startswith("/@") or endpoint.startswith("unix:@"):
        yield fault("the endpoint is an abstract socket, which everybody may open", advice)
    elif parts.netloc:
        yield fault(
            f"the endpoint has two slashes where it needs three: the API server opens {path!r}",
            advice,
        )
    elif Path(path) != socket:
        yield fault(f"the endpoint is {path}, and this provider serves {socket}", advice)


def _judged_timeout(timeout: object) -> Iterator[Verdict]:
    if timeout is None:
        return
    seconds = seconds_of(str(timeout))
    if seconds is None or seconds <= 0:
        yield fault("the timeout is no duration above 0", "set it to 3s, or leave it away")
    elif seconds < _TIMEOUT_SECONDS_MIN:
        yield warning(
            f"the timeout of {timeout} fails calls whenever the machine is busy",
            "set it to 3s, the API server's default",
        )
    elif seconds > _TIMEOUT_SECONDS_MAX:
        yield warning(
            f"with a timeout of {timeout} requests wait so long when the provider hangs",
            "set it to 3s, the API server's default",
        )


def _judged_order(rule: Mapping[str, Any], place: int) -> Iterator[Verdict]:
    kinds = [next(iter(each)) for each in rule["providers"]]
    about = ", ".join(map(str, rule["resources"]))
    if place > 0 and kinds[0] == "identity":
        yield fault(
            f"identity comes first, so {about} are stored in plain",
            "list this provider first and identity last",
        )
    elif place > 0:
        yield warning(
            f"a provider of the kind {kinds[0]} comes first and encrypts {about}; "
            "this one only decrypts",
            "list this provider first as soon as every API server has it",
        )
    elif "identity" in kinds:
        yield warning(
            f"identity is listed for {about}: plain objects that somebody writes into etcd "
            "are accepted",
            "keep it only until every object was rewritten once, then remove it",
        )
