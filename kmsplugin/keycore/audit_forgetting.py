"""Lets a chain of audit lines be missing, in a way that everybody can see ever after."""

from __future__ import annotations

from dataclasses import replace

from keycore.audit_examination import present_chains
from keycore.bootstrap import Core
from keycore.domain.audit_chain import forgotten_bytes
from keycore.errors import ConflictError, InvalidRequestError, NotFoundError
from keycore.ports import AuditHead
from keycore.service.audit_findings import HeadState, KnownHead, known_heads
from keycore.service.caller import Caller

_REASON_CHARACTERS_MAX = 200


def forget_chain(core: Core, caller: Caller, chain: str, *, reason: str) -> AuditHead:
    """Say why no file of a chain is left, so that it is not missed any more.

    Nothing is deleted. The head stays in the store with a signature of the HSM that it is
    forgotten, and the audit line holds what it was. So files of the chain that are there
    after all must still reach the line that the head names, and a cut stays a cut.

    Args:
        core: whose store knows the chain.
        caller: for the audit line.
        chain: its id.
        reason: one sentence for the audit line.

    Returns:
        The head as it is now.

    Raises:
        InvalidRequestError: there is no reason, or it is not one line of text.
        NotFoundError: the store knows no such chain.
        ConflictError: it is not missing, may be written to, or is forgotten already.
        SetupError: an audit file cannot be read.
        UnavailableError: token or store did not answer.
    """
    with core.auditor.decision(caller, "audit.forget") as decision:
        _check_reason(reason)
        decision.note(reason=reason)
        heads = known_heads(core.store.audit_heads(), core.token.is_signed)
        known = heads.get(chain)
        if known is None:
            raise NotFoundError("the store knows no such audit chain", hint=_HINT)
        head = known.head
        decision.note(
            chain=chain,
            node=head.node,
            name=head.name,
            line=head.line,
            digest=head.digest.hex(),
            sealed_at=head.at.isoformat(),
            mac=head.mac.hex(),
            head=known.state.value,
        )
        _check_missing(core, known, present=chain in present_chains(core, heads))
        now = core.clock.now()
        covered = forgotten_bytes(known.chain, line=head.line, digest=head.digest, at=now)
        forgotten = replace(head, at=now, mac=core.token.sign(covered))
        core.store.save_audit_head(forgotten)
    return forgotten


_HINT = "look at: keyplane audit verify --output json"


def _check_reason(reason: str) -> None:
    if not 0 < len(reason.strip()) <= _REASON_CHARACTERS_MAX or not reason.isprintable():
        raise InvalidRequestError(
            f"a reason has 1 to {_REASON_CHARACTERS_MAX} characters that can be printed"
        )


def _check_missing(core: Core, known: KnownHead, *, present: bool) -> None:
    head = known.head
    if known.state is HeadState.FORGOTTEN:
        raise ConflictError(f"{head.name} of {head.node} is forgotten already")
    if present:
        raise ConflictError(
            f"files of {head.name} are here: only a chain without any is forgotten",
            hint="move them away, if it is certain that they have been kept elsewhere",
        )
    here = core.settings.store.embedded or head.node == core.settings.provider.node
    if not here and any(node.name == head.node for node in core.providers.nodes()):
        raise ConflictError(
            f"the node {head.node} is registered, and may write to its chains",
            hint=f"when it will not come back: keyplane nodes remove {head.node}",
        )
