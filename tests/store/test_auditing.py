"""An exported log is audited by its file alone, and a number that was changed in it is found."""

import base64
import gzip
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict

from services.chassis.bus import Logged
from services.chassis.errors import SettingsError
from services.contracts import candidate_pb2, events_pb2
from services.store.auditing import LogAudit, audit_log, manifest_of, manifest_path, read_manifest
from services.store.exporting import lines_of, log_lines
from services.store.projection import read
from services.store.replay import Rebuilt
from tests.store.simulation import Simulation

FLAGSHIP = Path(__file__).parents[2] / "examples" / "flagship"
PUBLISHED = (FLAGSHIP / "log.jsonl.gz", FLAGSHIP / "tiny" / "log.jsonl.gz")
Lines = list[dict[str, Any]]


@dataclass
class Export:
    """A run in a file, as `export --format jsonl --manifest` writes it."""

    path: Path
    manifest: dict[str, object]
    lines: Lines

    @classmethod
    def of_story(cls, simulation: Simulation, folder: Path) -> "Export":
        """Of a run that was played."""
        with Rebuilt() as rebuilt:
            rebuilt.apply([read(message) for message in simulation.log])
            digest, _ = rebuilt.digest()
            refused = [outcome.sha256 for outcome in rebuilt.outcomes if not outcome.accepted]
        manifest = manifest_of(simulation.log, simulation.run, digest, refused)
        return cls(folder / "r1.jsonl.gz", manifest, [json.loads(line) for line in log_lines(simulation.log)])

    @classmethod
    def published(cls, folder: Path, log: Path = PUBLISHED[0]) -> "Export":
        """A copy of a run that the repository ships."""
        manifest = json.loads(manifest_path(log).read_text(encoding="utf-8"))
        return cls(folder / "log.jsonl.gz", manifest, [json.loads(line) for line in lines_of(log)])

    async def audited(self) -> LogAudit:
        """Write the lines as they are now, and audit the file."""
        self.path.write_bytes(gzip.compress("".join(f"{json.dumps(line)}\n" for line in self.lines).encode()))
        return await audit_log(self.path, self.manifest)

    def of(self, fact: str) -> int:
        """The place of the first event of a fact."""
        return next(index for index, line in enumerate(self.lines) if line["subject"].split(".")[4] == fact)

    def change(self, index: int, change: Callable[[events_pb2.Event], None], readable: bool = True) -> str:
        """Rewrite an event's bytes, and its readable part with them; its id."""
        event = events_pb2.Event.FromString(base64.b64decode(self.lines[index]["body"]))
        change(event)
        self.lines[index]["body"] = base64.b64encode(event.SerializeToString(deterministic=True)).decode()
        if readable:
            self.lines[index]["event"] = MessageToDict(event, preserving_proto_field_name=True)
        return event.id

    def forget_hash(self, index: int) -> None:
        """Make the manifest agree with what the line holds now."""
        event = base64.b64decode(self.lines[index]["body"])
        listed = self.manifest["sha256"]
        assert isinstance(listed, list)
        listed[index] = hashlib.sha256(event).hexdigest()


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


def unknown_control(verdict: candidate_pb2.Discovery) -> None:
    verdict.control = "c999999"


def no_seeds(verdict: candidate_pb2.Discovery) -> None:
    del verdict.seeds[:]


def no_number(verdict: candidate_pb2.Discovery) -> None:
    verdict.effect = math.nan


def none_tried(verdict: candidate_pb2.Discovery) -> None:
    verdict.tried = 0


@pytest.mark.parametrize("change", [unknown_control, no_seeds, no_number, none_tried])
async def test_an_impossible_verdict_is_a_contradiction(
    tmp_path: Path, change: Callable[[candidate_pb2.Discovery], None]
) -> None:
    """The statistics refuse it; the audit reports that."""
    export = Export.published(tmp_path, PUBLISHED[1])
    export.change(export.of("confirmed"), lambda event: change(event.discovery_confirmed.discovery))
    audit = await export.audited()

    assert any(" cannot be recomputed from the log: " in problem for problem in audit.problems)
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


async def test_a_loss_changed_everywhere_in_the_published_run_contradicts_its_claim(tmp_path: Path) -> None:
    """In the bytes, in what people read and in the manifest: a better loss of a finalist's second training."""
    export = Export.published(tmp_path)
    before = await export.audited()
    claim = before.claims[0]
    index = next(
        index
        for index, line in enumerate(export.lines)
        if line["subject"].endswith("candidate.verified") and line["event"]["candidate"] == claim.candidate
    )

    def improve(event: events_pb2.Event) -> None:
        event.candidate_verified.training.seeds[0].loss -= 0.05

    event = export.change(index, improve)
    export.forget_hash(index)

    problems = (await export.audited()).problems

    assert before.problems == ()
    assert any(f"the claim on {claim.candidate}: effect is" in problem for problem in problems)
    assert any("digest" in problem for problem in problems)
    assert event.startswith(f"{export.manifest['run']}.{claim.candidate}.verified")


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


def without_the_strongest(verdict: candidate_pb2.Discovery) -> None:
    verdict.controls.remove(verdict.control)


def with_few_trials(verdict: candidate_pb2.Discovery) -> None:
    verdict.tried = 2


def with_chosen_seeds(verdict: candidate_pb2.Discovery) -> None:
    del verdict.seeds[-1]


def with_a_narrower_interval(verdict: candidate_pb2.Discovery) -> None:
    verdict.interval.low += 0.001


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (without_the_strongest, "omits c000002, trained again with the same seeds"),
        (with_few_trials, "is corrected for 2 candidates, but 10 were proposed before it"),
        (with_chosen_seeds, "omits the seeds 1005 of these trainings"),
        (with_a_narrower_interval, "interval.low is recorded as"),
    ],
)
async def test_a_verdict_has_to_use_all_evidence_of_its_round(
    tmp_path: Path, change: Callable[[candidate_pb2.Discovery], None], named: str
) -> None:
    """A verdict that follows from a part of the losses says more than all of them do."""
    export = Export.published(tmp_path, PUBLISHED[1])
    export.change(export.of("confirmed"), lambda event: change(event.discovery_confirmed.discovery))
    problems = (await export.audited()).problems

    assert any(problem.startswith("the claim on ") and named in problem for problem in problems)


async def test_a_verdict_must_not_compare_losses_on_different_texts(tmp_path: Path) -> None:
    """A gain may then be the text's."""
    export = Export.published(tmp_path, PUBLISHED[1])

    def other_text(event: events_pb2.Event) -> None:
        for seed in event.candidate_verified.training.seeds:
            seed.measurements.data_fingerprint = "other"

    export.change(export.of("verified"), other_text)
    problems = (await export.audited()).problems

    assert any("compares losses on different text or in different precision" in problem for problem in problems)
