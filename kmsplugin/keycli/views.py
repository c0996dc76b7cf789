"""What people see of the documents; nothing here decides anything."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from keycli.examining import summary_of
from keycli.output import Document, remark, show_details, show_line, show_table

_GUARDED = "refuses to hand out an unwrapped root key, even to a holder of the PIN"
_UNBOUND = "none; bind one: keyplane provider set NAME --key KEY_ID"
_UNGUARDED = "whoever holds the PIN and the store can read root keys"


def show_initialised(made: Document) -> None:
    """Show what ``init`` made, what to keep safe, and what comes next."""
    installation, token, instance = made["installation"], made["token"], made["instance"]
    show_line(f"keyplane is ready in {installation['stateDir']}")
    show_details(
        (
            ("token", f"{token['label']} (serial {token['serial']}, {token['model']})"),
            ("instance", f"{instance['name']} ({instance['id']})"),
            ("namespace", instance["namespace"] or ""),
        ),
        indent=2,
    )
    show_line()
    show_line("Back up now:")
    for path in made["backUp"]:
        show_line(f"  {path}")
    show_line(_LOSS_OF_STATE if made["embedded"] else _LOSS_OF_HSM)
    show_line()
    show_line("Next:")
    show_line("  keyplane keys create etcd")
    show_line(f"  keyplane provider set {made['provider']} --key KEY_ID")
    show_line("  keyplane serve")


def show_joined(installation: Document) -> None:
    """Say what this host belongs to now, and what comes next."""
    show_line(f"this host belongs to installation {installation['id']}")
    show_line(f"its own files are in {installation['stateDir']}")
    show_line()
    show_line("Next:")
    show_line("  keyplane serve")


def show_moved(moved: Document) -> None:
    """Say where the store is now, what is left of the old one, and what comes next."""
    show_line(f"{moved['rows']} rows were copied to the {moved['store']} and compared")
    show_line(f"what was the store is kept as {moved['kept']}; it is as secret as before")
    show_line()
    show_line("From now on the database is what to back up.")
    show_line()
    show_line("Next:")
    show_line("  start every keyplane process again, with the same settings")
    show_line("  keyplane status")


_LOSS_OF_STATE = (
    "Without the token directory and its PIN files no key can ever be used again, and "
    "everything encrypted under them is lost. Whoever has both has all keys: keep their "
    "backups apart, and both out of reach."
)
_LOSS_OF_HSM = (
    "Without the token no key can ever be used again, and everything encrypted under them "
    "is lost: back it up as its maker describes, together with the user PIN."
)


def show_status(status: Document, now: datetime) -> None:
    """Show the installation at a glance."""
    installation, token = status["installation"], status["token"]
    show_details(
        (
            ("installation", installation["id"]),
            ("state", installation["stateDir"]),
            ("store", _answering(status["store"]["path"], status["store"])),
            ("token", _answering(token["label"], token)),
            ("  serial", token["serial"]),
            ("  model", f"{token['manufacturer']} {token['model']}".strip()),
            ("  module", token["module"]),
            ("  guarantee", _GUARDED if token["guardsUnwrapping"] else _UNGUARDED),
            ("instances", str(status["instances"])),
            ("keys", str(status["keys"])),
            ("providers", str(len(status["providers"])) if status["providers"] else _UNBOUND),
        )
    )
    for provider in status["providers"]:
        show_line()
        _show_provider_summary(provider)
        if provider["nodes"]:
            show_nodes(provider["nodes"], now, indent=2)


def show_apart(status: Document) -> None:
    """Show token and store while one of them does not answer."""
    store, token = status["store"], status["token"]
    show_details(
        (
            ("state", status["installation"]["stateDir"]),
            ("store", _answering(store["path"], store)),
            ("token", _answering(token["label"], token)),
            ("  serial", token["serial"] or ""),
            ("  module", token["module"]),
        )
    )


def _answering(name: str, part: Document) -> str:
    return f"{name} (answers)" if part["answers"] else f"{name}: {part['reason']}"


def show_instance(instance: Document) -> None:
    """Show one instance."""
    show_details((label, instance[label] or "") for label in ("id", "name", "namespace"))


def show_instances(instances: Sequence[Document]) -> None:
    """Show a table of instances."""
    show_table(
        ("ID", "NAME", "NAMESPACE"),
        ((each["id"], each["name"], each["namespace"]) for each in instances),
    )


def show_keys(keys: Sequence[Document]) -> None:
    """Show a table of keys."""
    if not keys:
        remark("keys: none; make one: keyplane keys create NAME")
        return
    show_table(
        ("ID", "NAME", "TYPE", "STATE", "VERSION"),
        (
            (key["id"], key["name"], key["type"], key["state"], str(key["currentVersion"]))
            for key in keys
        ),
    )


def show_key(key: Document) -> None:
    """Show one key with its versions."""
    origin = "imported" if key["imported"] else "generated"
    show_details(
        (
            ("id", key["id"]),
            ("name", key["name"]),
            ("description", key["description"] or ""),
            ("instance", key["instance"]),
            ("type", key["type"]),
            ("state", key["state"]),
            ("material", f"{key['bitLength']} bits, {origin}"),
            ("created", f"{key['createdAt']} by {key['createdBy']}"),
            ("updated", key["updatedAt"]),
            ("expires", key["expiresAt"] or ""),
            ("deleted", key["deletedAt"] or ""),
            ("owner", key["owner"] or ""),
            ("providers", ", ".join(key["providers"])),
            ("waits for", ", ".join(key["waitingFor"])),
        )
    )
    show_line()
    show_table(
        ("VERSION", "ID", "STATE", "CREATED"),
        (
            (str(each["number"]), each["id"], each["state"], each["createdAt"])
            for each in key["versions"]
        ),
    )


def show_rotation(key: Document) -> None:
    """Show a key that was rotated, and what the new version waits for."""
    show_key(key)
    pending = key["pendingVersion"]
    if pending is None:
        remark(f"version {key['currentVersion']} encrypts from now on")
        return
    names = ", ".join(key["waitingFor"]) or "none"
    remark(
        f"version {pending} decrypts already, and encrypts once every node has loaded it; "
        f"it waits for: {names}\n  see: keyplane keys show {key['id']}"
    )


def show_provider(provider: Document) -> None:
    """Show one provider with every activation that it ever had."""
    _show_provider_summary(provider)
    show_line()
    for activation in reversed(provider["activations"]):
        show_line(f"  {activation['sequence']}: {activation['state']}")
        show_details(
            (
                ("key", f"{activation['key']}, version {activation['version']}"),
                ("key_id", activation["keyId"]),
                ("hash", activation["keyIdHash"]),
                ("created", activation["createdAt"]),
            ),
            indent=4,
        )


def show_providers(providers: Sequence[Document]) -> None:
    """Show every provider."""
    if not providers:
        remark(f"providers: {_UNBOUND}")
    for number, provider in enumerate(providers):
        if number:
            show_line()
        show_provider(provider)


def show_nodes(nodes: Sequence[Document], now: datetime, *, indent: int = 0) -> None:
    """Show a table of nodes."""
    if not nodes:
        remark("nodes: none; one registers itself when it runs: keyplane serve provider")
        return
    show_table(
        ("NODE", "PROVIDER", "READY", "LAST SEEN"),
        (
            (
                node["name"],
                node["provider"],
                "yes" if node["ready"] else "no",
                f"{node['seenAt']} ({_age(node['seenAt'], now)} ago)",
            )
            for node in nodes
        ),
        indent=indent,
    )


def _show_provider_summary(provider: Document) -> None:
    active, pending = provider["active"], provider["pending"]
    show_line(f"provider {provider['name']}")
    show_details(
        (
            ("key", f"{provider['key']} ({provider['keyName']})"),
            ("active", _activation(active) if active else "none yet"),
            ("pending", _activation(pending) if pending else ""),
            ("waits for", ", ".join(provider["waitingFor"])),
            ("hash", active["keyIdHash"] if active else ""),
        ),
        indent=2,
    )


def _activation(activation: Document) -> str:
    return f"version {activation['version']}, made {activation['createdAt']}"


def _age(moment: str, now: datetime) -> str:
    """Return how long ago a moment was, in its largest unit."""
    seconds = max(0, (now - datetime.fromisoformat(moment)) // timedelta(seconds=1))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def show_bindings(bindings: Sequence[Document]) -> None:
    """Show what a policy grants: one row for each member, instance and key."""
    show_table(
        ("ROLE", "INSTANCE", "KEY", "NAME"),
        [
            (binding["role"], instance, key, _member_name(member))
            for binding in bindings
            for instance in binding["instances"] or ["all"]
            for key in binding["keys"] or ["all"]
            for member in binding["members"]
        ],
    )


def _member_name(member: Document) -> str:
    (kind,) = member.keys() - {"issuer"}
    words = {"subject": "", "group": "group ", "serviceAccount": "service account "}
    return f"{member['issuer']}: {words[kind]}{member[kind]}"


def show_examination(examination: Document) -> None:
    """Show a table of findings, then what to do about each that needs it, faults first."""
    findings = examination["findings"]
    show_table(
        ("CHECK", "OUTCOME", "WHAT"),
        ((each["check"], each["outcome"], each["what"]) for each in findings),
    )
    for outcome in ("fault", "warning"):
        for each in findings:
            if each["outcome"] == outcome:
                show_line()
                _show_advice(each)
    show_line()
    show_line(summary_of(examination))


def _show_advice(finding: Document) -> None:
    show_line(f"{finding['outcome']}: {finding['check']}: {finding['what']}")
    label = "fix" if "fix" in finding else "reason"
    if finding[label]:
        show_line(f"  {label}: {finding[label]}")
