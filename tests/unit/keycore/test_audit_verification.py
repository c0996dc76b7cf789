"""Whatever is done to a sealed chain is found, and the right line is named."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keycore.adapters.audit_chain import ChainWriter
from keycore.domain.audit_chain import (
    NO_DIGEST,
    Chain,
    checkpoint_line,
    digest_of,
    encode_plain,
    parse_line,
    seal_of,
    sealed_bytes,
)
from keycore.service.audit_findings import ChainReport, Damage, Finding
from tests.fakes.fixed_clock import FixedClock
from tests.unit.keycore.audit_chains import Written, write_chain

BURSTS = st.lists(st.integers(1, 8), min_size=1, max_size=5)


def written(bursts: list[int], lines_per_file: int = 9) -> Written:
    with TemporaryDirectory() as directory:
        return write_chain(Path(directory), bursts, lines_per_file=lines_per_file)


def finding(chain: Written) -> Finding:
    (report,) = chain.verify()
    assert report.finding is not None
    return report.finding


def rebuilt(chain: Written, lines: list[tuple[str, bytes]]) -> Written:
    """Return a chain with these lines, in files of the same names."""
    contents: dict[str, list[bytes]] = {name: [] for name in chain.contents}
    for name, line in lines:
        contents[name].append(line)
    return replace(chain, contents={name: lines for name, lines in contents.items() if lines})


def flattened(chain: Written) -> list[tuple[str, bytes]]:
    return [(name, line) for name, lines in chain.contents.items() for line in lines]


@settings(deadline=None, max_examples=12)
@given(BURSTS)
def test_a_chain_that_nobody_touched_is_whole(bursts: list[int]) -> None:
    chain = written(bursts)

    (report,) = chain.verify()

    lines = len(chain.numbered())
    assert report.finding is None
    assert (report.first, report.last, report.unsealed) == (1, lines, 0)
    assert report.sealed == lines - 1


@settings(deadline=None, max_examples=25)
@given(BURSTS, st.data())
def test_any_changed_byte_of_any_line_is_found_and_its_line_is_named(
    bursts: list[int], data: st.DataObject
) -> None:
    chain = written(bursts)
    number = data.draw(st.integers(1, len(chain.numbered())))
    name, at = chain.numbered()[number - 1]
    line = bytearray(chain.contents[name][at])
    place = data.draw(st.integers(0, len(line) - 2))
    new = data.draw(st.integers(32, 126).filter(lambda byte: byte != line[place]))
    line[place] = new

    found = finding(chain.with_line(number, bytes(line)))

    assert (found.line, found.file) == (number, name)
    assert found.damage in {Damage.EDITED, Damage.FORGED, Damage.REORDERED}


@settings(deadline=None, max_examples=25)
@given(BURSTS, st.data())
def test_any_removed_lines_are_found_and_the_first_is_named(
    bursts: list[int], data: st.DataObject
) -> None:
    chain = written(bursts)
    lines = flattened(chain)
    first = data.draw(st.integers(1, len(lines)))
    last = data.draw(st.integers(first, len(lines)))
    if (first, last) == (1, len(lines)):
        return

    found = finding(rebuilt(chain, lines[: first - 1] + lines[last:]))

    assert found.line == first
    assert found.damage in {Damage.REMOVED, Damage.CUT}


@settings(deadline=None, max_examples=25)
@given(BURSTS, st.data())
def test_any_two_lines_that_change_places_are_found(bursts: list[int], data: st.DataObject) -> None:
    chain = written(bursts)
    lines = flattened(chain)
    one = data.draw(st.integers(1, len(lines) - 1))
    other = data.draw(st.integers(one + 1, len(lines)))
    texts = [text for _, text in lines]
    texts[one - 1], texts[other - 1] = texts[other - 1], texts[one - 1]

    found = finding(
        rebuilt(chain, [(name, text) for (name, _), text in zip(lines, texts, strict=True)])
    )

    assert (found.damage, found.line) == (Damage.REORDERED, one)


@settings(deadline=None, max_examples=25)
@given(BURSTS, st.data())
def test_a_file_that_is_cut_anywhere_is_found(bursts: list[int], data: st.DataObject) -> None:
    chain = written(bursts)
    names = list(chain.contents)
    name = data.draw(st.sampled_from(names))
    whole = b"".join(chain.contents[name])
    kept = whole[: data.draw(st.integers(1, len(whole) - 1))]
    contents = {**chain.contents, name: kept.splitlines(keepends=True)}
    first = sum(len(chain.contents[each]) for each in names[: names.index(name)])
    first += kept.count(b"\n") + 1

    found = finding(replace(chain, contents=contents))

    assert found.line == first
    assert found.damage in {Damage.CUT, Damage.REMOVED, Damage.EDITED}


def test_a_file_in_the_middle_that_ends_inside_a_line_is_cut() -> None:
    chain = written([8, 8, 8], lines_per_file=5)
    name = list(chain.contents)[1]
    *kept, last = chain.contents[name]
    contents = {**chain.contents, name: [*kept, last[:-20]]}

    found = finding(replace(chain, contents=contents))

    assert (found.damage, found.file, found.place) == (Damage.CUT, name, len(kept) + 1)


@settings(deadline=None, max_examples=12)
@given(st.lists(st.integers(6, 12), min_size=3, max_size=5), st.data())
def test_any_file_that_is_gone_is_found_and_named(bursts: list[int], data: st.DataObject) -> None:
    chain = written(bursts, lines_per_file=5)
    names = list(chain.contents)
    gone = data.draw(st.sampled_from(names))
    first = sum(len(chain.contents[name]) for name in names[: names.index(gone)]) + 1
    contents = {name: lines for name, lines in chain.contents.items() if name != gone}

    found = finding(replace(chain, contents=contents))

    assert found.line == first
    if gone != names[-1]:
        assert (found.damage, found.file) == (Damage.REMOVED, gone)
    else:
        assert found.damage is Damage.CUT


def recomputed(chain: Written, number: int) -> Written:
    """Return the chain as an editor without the HSM leaves it who recomputes every digest."""
    known = Chain("", "", "rest.0")
    previous, lines = NO_DIGEST, []
    for at, (name, text) in enumerate(flattened(chain), 1):
        line = parse_line(text.rstrip(b"\n"))
        assert line is not None
        fields = {**line.fields, "prev": previous}
        if at == 1:
            known = Chain(str(fields["chain"]), str(fields["node"]), str(fields["name"]))
        if at == number:
            fields["outcome"] = "access_denied"
        seal = seal_of(line)
        new = (
            checkpoint_line(known, seal, number=at, previous=previous)
            if seal
            else encode_plain(fields)  # type: ignore[arg-type]
        )
        lines.append((name, new + b"\n"))
        previous = digest_of(new)
    return rebuilt(chain, lines)


@settings(deadline=None, max_examples=12)
@given(BURSTS, st.data())
def test_an_editor_who_recomputes_the_chain_is_found_by_the_next_checkpoint(
    bursts: list[int], data: st.DataObject
) -> None:
    chain = written(bursts)
    lines = [parse_line(text.rstrip(b"\n")) for _, text in flattened(chain)]
    plain = [at for at, line in enumerate(lines, 1) if line and seal_of(line) is None]
    number = data.draw(st.sampled_from(plain))

    found = finding(recomputed(chain, number))

    assert found.damage is Damage.EDITED
    assert found.line <= number


def test_a_recomputed_chain_without_its_checkpoint_is_found_by_the_store() -> None:
    chain = written([5], lines_per_file=100)
    previous, lines = NO_DIGEST, []
    for name, text in flattened(chain)[:-1]:
        fields = {**json.loads(text), "prev": previous}
        new = encode_plain({**fields, "outcome": "other"})
        lines.append((name, new + b"\n"))
        previous = digest_of(new)

    found = finding(rebuilt(chain, lines))

    assert (found.damage, found.line) == (Damage.EDITED, 1)


def test_no_byte_of_the_last_checkpoint_may_be_another() -> None:
    chain = written([3])
    name, at = chain.numbered()[-1]
    line = chain.contents[name][at]

    found = [
        finding(chain.with_line(at + 1, line[:place] + b"~" + line[place + 1 :]))
        for place in range(len(line) - 1)
    ]

    assert {each.line for each in found} == {at + 1}


def test_a_seal_of_another_chain_is_no_seal() -> None:
    one, other = written([3]), written([3])

    head = replace(one.heads[0], chain=other.heads[0].chain)

    assert finding(replace(other, heads=[head])).line <= head.line


def test_a_seal_by_another_hsm_is_forged() -> None:
    chain = written([3])

    found = finding(replace(chain, token=written([1]).token))

    assert found.damage is Damage.FORGED


def test_an_old_seal_that_is_put_at_the_end_vouches_for_nothing_new(tmp_path: Path) -> None:
    chain = write_chain(tmp_path, [3, 4], sealed=False)
    lines = flattened(chain)
    checkpoint = next(line for _, line in lines if b"audit.checkpoint" in line)
    parsed, last = parse_line(checkpoint[:-1]), parse_line(lines[-1][1][:-1])
    seal = seal_of(parsed) if parsed else None
    assert last is not None
    assert seal is not None
    head = chain.heads[0]
    again = checkpoint_line(
        Chain(head.chain, head.node, head.name),
        seal,
        number=last.number + 1,
        previous=last.digest,
    )

    (report,) = rebuilt(chain, [*lines, (lines[-1][0], again + b"\n")]).verify()

    assert (report.sealed, report.unsealed) == (seal.line, 4)


def test_lines_behind_the_newest_checkpoint_are_counted(tmp_path: Path) -> None:
    chain = write_chain(tmp_path, [3, 4], sealed=False)

    (report,) = chain.verify()

    assert (report.finding, report.sealed, report.unsealed) == (None, 4, 4)


def test_lines_that_a_successor_sealed_are_counted(tmp_path: Path) -> None:
    directory = tmp_path
    first = write_chain(directory, [3, 4], sealed=False)

    writer = ChainWriter(
        directory,
        "rest",
        node="node-a",
        file_bytes=10**6,
        clock=FixedClock(),
    )
    writer.go_on()
    writer.tell_what_was_found()
    writer.close()
    text = next(iter(directory.glob("*.jsonl"))).read_bytes()
    contents = {name: text.splitlines(keepends=True) for name in first.contents}

    (report,) = replace(first, contents=contents).verify()

    assert (report.finding, report.taken_over) == (None, 4)


def test_first_files_may_lie_elsewhere_only_if_that_is_said() -> None:
    chain = written([8, 8, 8], lines_per_file=5)
    names = list(chain.contents)
    rest = replace(chain, contents={name: chain.contents[name] for name in names[1:]})

    (strict,), (lenient,) = rest.verify(), rest.verify(archived=True)

    assert strict.finding is not None
    assert strict.finding.damage is Damage.REMOVED
    assert lenient.finding is None
    assert lenient.first == len(chain.contents[names[0]]) + 1


def test_a_renamed_file_is_found() -> None:
    chain = written([8, 8, 8], lines_per_file=5)
    contents = {
        name.replace("rest.0.000002", "rest.0.000009"): lines
        for name, lines in chain.contents.items()
    }

    assert finding(replace(chain, contents=contents)).damage is Damage.REORDERED


@pytest.mark.parametrize("junk", [b"\n", b"garbage\n", b"[]\n", b'{"n":true}\n', b"{" * 5000])
def test_what_is_no_line_of_a_chain_is_found(junk: bytes) -> None:
    chain = written([6])

    found = finding(chain.with_line(4, junk))

    assert (found.line, found.place) == (4, 4)


def test_a_file_that_begins_with_no_line_of_a_chain_is_said_to_be_perhaps_a_foreign_one() -> None:
    chain = written([6])
    contents = {**chain.contents, "rest.0.000009.jsonl": [b'{"event":"hello"}\n']}

    found = finding(replace(chain, contents=contents))

    assert (found.damage, found.file) == (Damage.EDITED, "rest.0.000009.jsonl")
    assert "foreign" in found.what


def test_a_seal_covers_chain_node_name_line_digest_and_time() -> None:
    (head,) = written([2]).heads
    chain = Chain(head.chain, head.node, head.name)
    one = sealed_bytes(chain, line=head.line, digest=head.digest, at=head.at)

    others = {
        sealed_bytes(replace(chain, id="x"), line=head.line, digest=head.digest, at=head.at),
        sealed_bytes(replace(chain, node="x"), line=head.line, digest=head.digest, at=head.at),
        sealed_bytes(replace(chain, name="x"), line=head.line, digest=head.digest, at=head.at),
        sealed_bytes(chain, line=head.line + 1, digest=head.digest, at=head.at),
        sealed_bytes(chain, line=head.line, digest=bytes(32), at=head.at),
        sealed_bytes(chain, line=head.line, digest=head.digest, at=head.at.replace(microsecond=1)),
    }

    assert len(others) == 6
    assert one not in others


def test_a_long_chain_with_random_damage_is_never_called_whole() -> None:
    chain = written([40, 40], lines_per_file=30)
    lines = flattened(chain)
    chance = random.Random(7)

    reports: list[ChainReport] = []
    for _ in range(40):
        damaged = lines[:]
        damaged.insert(chance.randrange(len(lines)), chance.choice(lines))
        reports += rebuilt(chain, damaged).verify()

    assert all(report.finding for report in reports)
