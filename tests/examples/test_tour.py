"""The tour of an exported run: the script as a person runs it."""

import subprocess
import sys
from pathlib import Path

from services.chassis.bus import Logged
from services.chassis.bus.subjects import subject_of
from services.chassis.events import Cause, body_of, first, follow
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2
from services.store.exporting import log_lines

TOUR = Path(__file__).parents[2] / "examples" / "tour.py"


def story_of(number: int, kind: pb.Kind.ValueType, loss: float | None) -> list[events_pb2.Event]:
    """One candidate's events: all of its way, or only as far as it was proposed."""
    cause, name = Cause.published(first("r1", "started", "console")), f"c{number:06d}"
    requested, proposed, trained, judged = (
        follow(cause, fact, "played", 1, name) for fact in ("requested", "proposed", "trained", "judged")
    )
    requested.candidate_requested.CopyFrom(
        events_pb2.CandidateRequested(kind=kind, stage="tiny", request=pb.Request(number=number))
    )
    proposal = pb.Proposal(name=f"Net{number}", components=["delta-rule"], parent="c000001")
    proposed.candidate_proposed.CopyFrom(events_pb2.CandidateProposed(proposal=proposal, stage="tiny"))
    if loss is None:
        return [requested, proposed]
    seed = pb.SeedResult(seed=1, loss=loss)
    seed.curve.extend([pb.CurvePoint(step=1, tokens=100, train_loss=5.0), pb.CurvePoint(step=2, tokens=200, loss=loss)])
    trained.candidate_trained.training.CopyFrom(pb.Training(loss=loss, seeds=[seed]))
    judged.candidate_judged.verdict.fitness.CopyFrom(pb.Fitness(version="paper", value=1 / loss))
    rescored = follow(cause, "rescored", "played", 1, name)
    rescored.candidate_rescored.fitness.CopyFrom(pb.Fitness(version="standardised-gain-1", value=number - 1))
    return [requested, proposed, trained, judged, rescored]


def test_the_tour_prints_tables_and_draws_a_plot(tmp_path: Path) -> None:
    """From an exported log alone; what was not measured does not stop it."""
    started = first("r1", "started", "console")
    started.run_started.SetInParent()
    story = [started, *story_of(1, pb.KIND_BASELINE, 1.5), *story_of(2, pb.KIND_PROPOSAL, 1.25),
             *story_of(3, pb.KIND_PROPOSAL, None)]  # fmt: skip
    log = tmp_path / "r1.jsonl"
    lines = log_lines([Logged(sequence, subject_of(event), body_of(event)) for sequence, event in enumerate(story, 1)])
    log.write_text("\n".join(lines))
    done = subprocess.run(
        [sys.executable, str(TOUR), str(log), "--plot", str(tmp_path / "curves.png")],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "13 events, 3 candidates" in done.stdout
    best, root, _ = (line.split() for line in done.stdout.splitlines() if "Net" in line)
    assert (best[1], best[-1]) == ("Net2", "1.000")
    assert (root[1], root[-1]) == ("Net1", "0.000")  # the newest fitness, also where it is zero
    assert "-0.250" in done.stdout
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
