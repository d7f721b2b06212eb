"""Candidates in experiment trackers, written to folders without a network, and discoveries reported to a URL."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from services.chassis.errors import SettingsError
from services.console.commands.track import TRACKERS, discovery_message, open_tracker, points_of, post_message
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2 as events
from tests.console.conftest import System
from tests.console.published_events import whole_way

PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}


def record() -> pb.Candidate:
    """A trained candidate with a curve of two points, one of which has a held-out loss."""
    seed = pb.SeedResult(seed=1, scores=[pb.TaskScore(task="copying", metric="acc", value=0.25)])
    seed.curve.extend([pb.CurvePoint(step=10, train_loss=2.5), pb.CurvePoint(step=20, train_loss=2.0, loss=2.1)])
    candidate = pb.Candidate(id="c000002", run="r1", stage="tiny", state=pb.STATE_ARCHIVED)
    candidate.proposal.CopyFrom(pb.Proposal(name="Net", motivation="Because.", program="x = 1"))
    candidate.training.CopyFrom(pb.Training(loss=2.05, seeds=[seed]))
    return candidate


def test_only_measured_values_become_points() -> None:
    """Curves by seed, then the scores at the last step."""
    points = list(points_of(record()))

    assert points[:2] == [("train_loss/seed_1", 2.5, 10), ("train_loss/seed_1", 2.0, 20)]
    assert ("heldout_loss/seed_1", 2.1, 20) in points
    assert ("tasks/copying/seed_1", 0.25, 20) in points
    assert ("loss", 2.05, 20) in points
    assert not [name for name, _, _ in points if name in ("fitness", "judge")]


def test_a_task_is_a_name_that_every_tracker_takes() -> None:
    """MLflow refuses others."""
    odd = record()
    odd.training.seeds[0].scores[0].task = "Überblick, 5-shot (%)"

    assert ("tasks/_berblick_ 5-shot ___/seed_1", 0.25, 20) in list(points_of(odd))


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_writes_a_candidate_to_its_folder(name: str, tmp_path: Path) -> None:
    """Without a network and without an account; imported names and tasks may hold any character."""
    pytest.importorskip(PACKAGES[name], reason=f"needs the extra {name}")
    odd = record()
    odd.id, odd.proposal.name = "c000003", "a\nb\x1b[31m\x00 😀"
    odd.training.seeds[0].scores[0].task = "Überblick, 5-shot (%)"
    tracker = open_tracker(name, tmp_path / "out")
    tracker.write(record())
    tracker.write(odd)
    tracker.close()
    content = b"".join(path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file())

    assert b"heldout_loss" in content or name == "mlflow"
    assert b"Net" in content or name == "tensorboard"
    if name == "mlflow":
        assert [path for path in (tmp_path / "out").rglob("seed_1") if "heldout_loss" in str(path)]


def test_an_unknown_tracker_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    """One sentence."""
    with pytest.raises(SettingsError, match="--to is 'tensorbord'; did you mean tensorboard"):
        open_tracker("tensorbord", tmp_path)


async def test_a_run_is_followed_into_a_tracker_and_exported(
    system: System, started: events.Event, tmp_path: Path
) -> None:
    """The same candidates by the event stream and from the archive."""
    pytest.importorskip("tensorboardX", reason="needs the extra tensorboard")
    await system.bus.publish(started)
    await whole_way(system.bus, fitness=0.5)
    await whole_way(system.bus, fitness=0.7)
    await system.until("finished")
    live, exported_folder = tmp_path / "live", tmp_path / "whole"
    tracked = await system.asi_arch("track", "--to", "tensorboard", "--out", str(live), "--from-start")
    exported = await system.asi_arch("export", "--to", "tensorboard", "--out", str(exported_folder))

    assert tracked.status == 0, tracked.err
    assert exported.status == 0, exported.err
    for folder in (live, exported_folder):
        assert sorted(path.name for path in (folder / "r1").iterdir()) == ["c000001", "c000002"]


def test_a_discovery_is_posted_to_a_url_and_a_dead_url_is_reported() -> None:
    """JSON with the claim's numbers, and a sentence for chat services."""
    received: list[dict[str, object]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    candidate = record()
    candidate.discovery.CopyFrom(pb.Discovery(confirmed=True, effect=0.02, adjusted_p_value=0.001, tried=8))
    url = f"http://127.0.0.1:{server.server_port}/hook"
    result = post_message(url, discovery_message(candidate))
    server.shutdown()
    server.server_close()

    assert result == "discovery c000002 reported: status 204"
    assert received[0]["candidate"] == "c000002"
    assert "0.0200 nats per token" in str(received[0]["text"])
    assert "could not be reported to 127.0.0.1" in post_message(url, discovery_message(candidate))
