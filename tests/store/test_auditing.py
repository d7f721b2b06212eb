"""An exported log is audited by its file alone, and a number that was changed in it is found."""

import base64
import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from services.chassis.bus import Logged
from services.chassis.errors import SettingsError
from services.contracts import events_pb2
from services.store.auditing import (
    MAX_PROBLEM,
    MAX_SUPERFLUOUS,
    audit_log,
    manifest_path,
    read_manifest,
)
from services.store.exporting import lines_of, log_lines
from tests.store.exported import PUBLISHED, Export
from tests.store.simulation import Simulation


@pytest.fixture
def export(finished: Simulation, tmp_path: Path) -> Export:
    return Export.of_story(finished, tmp_path)


def better(event: events_pb2.Event) -> None:
    """A loss that nobody measured."""
    event.candidate_trained.training.loss = 0.1


async def test_a_log_as_it_was_exported_has_no_problem(export: Export) -> None:
    """The digest is that of the archive the run lived in; late and repeated messages are no problem either."""
    audit = await export.audited()

    assert audit.problems == ()
    assert audit.digest == export.manifest["digest"]
    assert manifest_path(export.path).name == "r1.manifest.json"


async def test_a_number_changed_for_readers_is_named_with_its_field(export: Export) -> None:
    """What people read is compared with the bytes beside it."""
    index = export.of("trained")
    export.lines[index]["event"]["candidate_trained"]["training"]["seeds"][0]["loss"] = 0.1
    event = export.lines[index]["event"]["id"]

    (problem,) = (await export.audited()).problems

    assert problem.startswith(f"event {event}: candidate_trained.training.seeds[0].loss reads 0.1, but its bytes hold")


async def test_a_number_changed_in_the_bytes_is_named_with_its_field(export: Export) -> None:
    """The bytes are compared with what people read, with the manifest, and with what followed from them."""
    event = export.change(export.of("trained"), better, readable=False)

    problems = (await export.audited()).problems

    assert any(problem.startswith(f"event {event}: candidate_trained.training.loss reads") for problem in problems)
    assert any(problem.startswith(f"event {event} was changed: ") for problem in problems)


async def test_a_number_changed_everywhere_contradicts_what_followed(export: Export) -> None:
    """In the bytes, in what people read and in the manifest: the next event of the chain holds the old hash."""
    index = export.of("trained")
    event = export.change(index, better)
    export.forget_hash(index)

    problems = (await export.audited()).problems

    assert any(problem.startswith(f"event {event} was changed after ") for problem in problems)


async def test_a_removed_last_event_contradicts_the_manifest(export: Export) -> None:
    """Nothing follows from it."""
    index = len(export.lines) - 1
    event = export.change(index, lambda body: body.time.FromSeconds(1))

    problems = (await export.audited()).problems

    assert any(problem.startswith(f"event {event} was changed: ") for problem in problems)


@pytest.mark.parametrize("fact", ["trained", "judged"])
async def test_an_event_left_out_is_noticed(export: Export, fact: str) -> None:
    """Whatever followed from it is refused as well."""
    del export.lines[export.of(fact)]

    problems = (await export.audited()).problems

    assert f"the log holds {len(export.lines)} events, the manifest {len(export.lines) + 1}" in problems
    assert any(" of the manifest is missing: no line's bytes hash to " in problem for problem in problems)


async def test_an_event_that_replaces_another_is_named_with_it(export: Export) -> None:
    """The number of events is the manifest's."""
    event = export.lines[3]["event"]["id"]
    export.lines[4] = export.lines[3]

    problems = (await export.audited()).problems

    assert f"event {event} occurs more often than in the manifest" in problems
    assert any(problem.startswith("event 5 of the manifest is missing") for problem in problems)


@pytest.mark.parametrize(
    ("shown", "hidden"),
    [
        ('"event": {', '"event": {"id": "another", '),  # read by people who stop at the first, ignored by programs
        ('{"sequence"', '{"loss": 0.1, "sequence"'),
        ('"event": {', '"event": {"nested": ' + "[" * 900 + "]" * 900 + ", "),
        ('"event": {', '"event": {"' + "long" * 10**5 + '": 1, '),
    ],
    ids=["repeated", "added", "deep", "long"],
)
async def test_a_line_with_more_than_an_event_is_named(export: Export, shown: str, hidden: str) -> None:
    """In one sentence of bounded length."""
    await export.audited()
    lines = list(lines_of(export.path))
    lines[3] = lines[3].replace(shown, hidden, 1)
    export.path.write_bytes("\n".join(lines).encode())
    problems = (await audit_log(export.path, export.manifest)).problems

    assert problems
    assert max(map(len, problems)) <= MAX_PROBLEM


async def test_what_the_run_refused_as_no_event_is_no_problem(finished: Simulation, tmp_path: Path) -> None:
    """Anybody with an account of the broker can publish such bytes."""
    finished.garbage()

    assert (await Export.of_story(finished, tmp_path).audited()).problems == ()


async def test_a_small_file_cannot_fill_the_memory(export: Export) -> None:
    """A line is read up to a limit, and lines up to the manifest's number and some more."""
    await export.audited()
    line = export.path.read_bytes()
    export.path.write_bytes(line + gzip.compress(bytes(1 << 20)) * 65)
    with pytest.raises(SettingsError, match="is longer than 64 MiB"):
        await audit_log(export.path, export.manifest)
    export.path.write_bytes(line + gzip.compress(b"{}\n" * 10**5))
    problems = (await audit_log(export.path, export.manifest)).problems

    assert len(problems) < 2 * MAX_SUPERFLUOUS


async def test_a_line_that_is_not_an_event_is_named(export: Export) -> None:
    """Cut or filled with something else."""
    export.lines[3]["body"] = "?"

    assert any(problem.startswith("line 4 is not an exported event") for problem in (await export.audited()).problems)


async def test_a_time_that_no_clock_shows_is_named(export: Export) -> None:
    """Its event has no readable form."""
    event = events_pb2.Event.FromString(base64.b64decode(export.lines[3]["body"]))
    event.time.seconds = 10**15
    export.lines[3]["body"] = base64.b64encode(event.SerializeToString()).decode()

    assert any(problem.startswith("line 4 is not an exported event") for problem in (await export.audited()).problems)
    assert json.loads(log_lines([Logged(1, "asi.v1.r1.x", event.SerializeToString())])[0])["event"] is None


async def test_a_log_without_its_start_has_nothing_to_audit(export: Export) -> None:
    """The audit says so, and ends."""
    del export.lines[0]
    audit = await export.audited()

    assert "the log holds no valid start of run r1, without which there is nothing to audit" in audit.problems
    assert audit.claims == ()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("", "is not a manifest"),
        ("[]", "has no valid run"),
        ('{"run": "r1"}', "has no valid digest"),
        ('{"run": "r1", "digest": "", "sha256": null}', "has no valid sha256"),
        (None, "there is no"),
    ],
)
def test_a_file_that_is_no_manifest_is_named(tmp_path: Path, content: str | None, named: str) -> None:
    """With what it lacks."""
    if content is not None:
        (tmp_path / "m.json").write_text(content)
    with pytest.raises(SettingsError, match=named):
        read_manifest(tmp_path / "m.json")


def test_the_manifest_names_what_the_archive_refused(finished: Simulation, tmp_path: Path) -> None:
    """A message that came twice is refused in the run and in the audit."""
    finished.repeat(5)
    manifest: Mapping[str, Any] = Export.of_story(finished, tmp_path).manifest

    assert len(manifest["refused"]) == 1


@pytest.mark.parametrize("log", PUBLISHED)
async def test_the_published_run_is_as_it_was_exported(log: Path, tmp_path: Path) -> None:
    """What the README claims follows from the losses that the log holds."""
    audit = await Export.published(tmp_path, log).audited()

    assert audit.problems == ()
    assert audit.claims
    assert all(claim.expected.low < claim.effect < claim.expected.high for claim in audit.claims)


def swap_verifications(export: Export) -> None:
    first = export.of("verified")
    second = next(
        index for index in range(first + 1, len(export.lines)) if export.lines[index]["subject"].endswith("verified")
    )
    export.lines[first], export.lines[second] = export.lines[second], export.lines[first]


async def test_exchanged_events_of_different_candidates_are_named(tmp_path: Path) -> None:
    """They are in the manifest, and the digest does not depend on how candidates interleave."""
    export = Export.published(tmp_path, PUBLISHED[1])
    swap_verifications(export)
    problems = (await export.audited()).problems

    assert any(problem.endswith(" comes after later ones: the order was changed") for problem in problems)
