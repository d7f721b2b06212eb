"""`asi-arch judge`, `propose` and `prompt` as processes, while no system runs: an archive behind real gRPC is all."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from services.contracts import candidate_pb2 as pb
from tests.archive_server import served
from tests.console.conftest import asi_arch, bare_environment
from tests.judge.judge_fixtures import ANCHOR, ROOT, Archive

Environment = dict[str, str]


def _judged(record: pb.Candidate, raw: float) -> pb.Candidate:
    judged = pb.Candidate()
    judged.CopyFrom(record)
    judged.verdict.raw = raw
    return judged


@pytest_asyncio.fixture
async def environment(tmp_path: Path) -> AsyncIterator[Environment]:
    """Where an archive answers in which the anchor had another score; a data folder in which nothing runs."""
    async with served(Archive(_judged(ROOT, 5.0), _judged(ANCHOR, 5.5))) as address:
        yield bare_environment(tmp_path, ASI_ARCHIVE_ADDRESS=address, COLUMNS="120")


async def test_calibration_reports_how_far_the_baselines_drifted(environment: Environment) -> None:
    """A judge that has changed its mind makes old and new verdicts incomparable."""
    status, out, err = await asi_arch(environment, "judge", "--calibrate", "--json")

    report = json.loads(out)
    drifts = {verdict["candidate"]: (verdict["anchor"], verdict["drift"]) for verdict in report["verdicts"]}
    assert (status, err) == (1, "")
    assert drifts == {ROOT.id: (5.0, 0.0), ANCHOR.id: (7.0, 1.5)}
    assert report["largest_drift"] == pytest.approx(1.5)


async def test_a_drift_within_the_tolerance_is_accepted(environment: Environment) -> None:
    """So that a script can rely on the exit status."""
    status, out, _ = await asi_arch(environment, "judge", "--calibrate", "--tolerance", "2")

    assert status == 0
    assert "largest drift: 1.50 points" in out


async def test_judging_requires_a_candidate_or_a_run(environment: Environment) -> None:
    """Exactly one of both."""
    for arguments in ((), ("c000001", "--calibrate")):
        status, _, err = await asi_arch(environment, "judge", *arguments)

        assert (status, err) == (2, "asi-arch: name what to judge: either a CANDIDATE or --calibrate.\n")


async def test_a_missing_judge_service_is_reported_at_once(environment: Environment) -> None:
    """A verdict's own deadline is half an hour."""
    environment["ASI_JUDGE_ADDRESS"] = "127.0.0.1:1"
    status, _, err = await asi_arch(environment, "judge", "--calibrate")

    assert status == 1
    assert "no service answers at 127.0.0.1:1" in err
    assert "correct ASI_JUDGE_ADDRESS" in err


@pytest.mark.parametrize("command", ["judge", "propose --parent", "prompt propose --candidate"])
async def test_an_unknown_candidate_is_refused_before_a_service_is_asked(
    environment: Environment, command: str
) -> None:
    """Starting services takes seconds; here none of them answers."""
    environment |= {"ASI_JUDGE_ADDRESS": "127.0.0.1:1", "ASI_COGNITION_ADDRESS": "127.0.0.1:1"}
    status, out, err = await asi_arch(environment, *command.split(), "nosuch")

    assert (status, out) == (1, "")
    assert err.startswith("asi-arch: run ")
    assert "no candidate 'nosuch'" in err


async def test_an_unknown_mind_is_refused_with_the_choices(environment: Environment) -> None:
    """By the command, not by its tool."""
    status, _, err = await asi_arch(environment, "propose", "--parent", ROOT.id, "--mind", "ofline")

    assert (status, err) == (2, "asi-arch: --mind is 'ofline'; did you mean offline?\n")


@pytest.mark.slow
async def test_a_proposal_is_shown_with_its_cognition_entries(environment: Environment) -> None:
    """As in a run, although no analyst runs."""
    status, out, err = await asi_arch(environment, "propose", "--parent", ROOT.id, "--json")

    assert (status, err) == (0, "")
    assert json.loads(out)["parent"] == ROOT.id


async def test_a_prompt_is_shown_by_the_service_that_would_send_it(environment: Environment) -> None:
    """The console imports none of them."""
    status, out, err = await asi_arch(environment, "prompt", "score", "--candidate", ANCHOR.id)

    assert (status, err) == (0, "")
    assert out.startswith("version: score-")


async def test_a_role_that_asks_about_no_candidate_is_refused(environment: Environment) -> None:
    """With what to use instead."""
    status, _, err = await asi_arch(environment, "prompt", "extract", "--candidate", ANCHOR.id)

    assert status == 2
    assert "asi-arch cognition ingest" in err
