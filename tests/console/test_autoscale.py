"""Engineers for a system: as many as there is work, one per GPU, drained and never killed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from services.chassis.bus import Bus
from services.chassis.errors import NotPossible
from services.chassis.events import follow
from services.console.commands.autoscale import EngineerTarget, Fleet, devices_for, gpus
from services.contracts import candidate_pb2 as pb
from services.contracts import events_pb2 as events
from services.domain.zoo import baseline
from tests.console.conftest import System, asi_arch, bare_environment
from tests.console.published_events import next_of
from tests.loop.conftest import MICRO

ROOT = Path(__file__).parents[2]


def test_engineers_start_at_once_and_end_after_a_quiet_period() -> None:
    """One for each message, within the bounds."""
    target = EngineerTarget(minimum=1, maximum=4, calm=10)

    assert target.at(0, 0) == 1
    assert target.at(1, 3) == 3
    assert target.at(2, 9) == 4
    assert target.at(11.5, 0) == 4
    assert target.at(12.5, 2) == 2
    assert target.at(30, 0) == 1


def test_visible_gpus_respect_cuda_visible_devices() -> None:
    """Numbers, names, none; and without a tool that could say, none."""
    assert gpus({"CUDA_VISIBLE_DEVICES": "0,2"}) == ["0", "2"]
    assert gpus({"CUDA_VISIBLE_DEVICES": "GPU-8a5f, GPU-77c1"}) == ["GPU-8a5f", "GPU-77c1"]
    assert gpus({"CUDA_VISIBLE_DEVICES": ""}) == []
    assert gpus({"CUDA_VISIBLE_DEVICES": "-1"}) == []
    assert gpus({"PATH": "/nowhere"}) == []


def test_a_gpus_stage_has_a_place_per_gpu_and_a_cpus_stage_one_per_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage for GPUs is refused where there is none, in a sentence."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,3")
    assert devices_for(["explore"], None) == ["0", "1", "3"]
    assert devices_for(["explore"], 2) == ["0", "1"]
    assert devices_for(["tiny"], 3) == ["", "", ""]
    assert len(devices_for(["tiny"], None)) == os.cpu_count()

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(NotPossible, match="trains on a GPU, and none is visible"):
        devices_for(["explore"], None)


async def test_without_a_running_system_there_is_a_message(tmp_path: Path) -> None:
    """For both commands, before any engineer is started."""
    for command, named in (("autoscale", "ASI_NATS_URL is not set"), ("worker", "ASI_NATS_URL is not set")):
        done = await asi_arch(bare_environment(tmp_path), command)

        assert done.status == 2
        assert named in done.err
        assert len(done.err.splitlines()) == 1


def test_the_sbatch_file_names_missing_variables() -> None:
    """It is a script that runs, and ends before it starts anything without an address."""
    script = ROOT / "deploy" / "slurm" / "worker.sbatch"
    bare = subprocess.run(["/bin/bash", str(script)], capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    shown = subprocess.run(
        ["/bin/bash", str(script)], capture_output=True, text=True, check=True,
        env={"PATH": os.environ["PATH"], "ASI_NATS_URL": "nats://a:1", "ASI_ARCHIVE_ADDRESS": "a:2",
             "ASI_ENGINEER_TEXT_SEED": "shared", "SLURM_JOB_ID": "7", "ASI_ARCH": "echo"},
    )  # fmt: skip

    assert bare.returncode != 0
    assert "say where the broker is" in bare.stderr
    assert shown.stdout == "worker --stages explore\n"


async def propose(bus: Bus) -> None:
    """A program that really trains."""
    cause, _, attempt = await next_of(bus, "researcher")
    event = follow(cause, "proposed", "played", attempt, cause.event.candidate)
    proposal = pb.Proposal(name="Net", program=baseline("delta_net").program)
    event.candidate_proposed.CopyFrom(events.CandidateProposed(proposal=proposal, stage="tiny"))
    await bus.publish(event)


async def trained(bus: Bus, count: int) -> list[str]:
    """Wait until so many candidates were trained; by which workers."""
    async with asyncio.timeout(150):
        while True:
            messages = [message async for message in bus.read_log("asi.v1.r1.candidate.trained")]
            if len(messages) >= count:
                return [events.Event.FromString(message.body).candidate_trained.training.worker for message in messages]
            await asyncio.sleep(0.2)


def micro(started: events.Event) -> events.Event:
    """Two baselines at once, a training of seconds."""
    settings = started.run_started.settings
    settings.scale_overrides.update(dict(override.split("=") for override in MICRO))
    settings.seats = 2
    settings.baselines.append("gated_delta_net")
    return started


@pytest.mark.slow
async def test_autoscale_follows_the_queue_and_drains_removed_engineers(
    system: System, started: events.Event, tmp_path: Path
) -> None:
    """Two candidates, two engineers; nothing left to do, no engineer; SIGTERM, no process."""
    await system.bus.publish(micro(started))
    scaler = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.console", "autoscale", "--max", "2", "--every", "0.5", "--calm", "2", "--json",
        env=system.environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert scaler.stdout is not None
    first = json.loads(await asyncio.wait_for(scaler.stdout.readline(), 60))
    await propose(system.bus)
    await propose(system.bus)
    workers = await trained(system.bus, 2)
    moments = [first]
    async with asyncio.timeout(90):
        while not (moments[-1]["engineers"] == 0 and len(moments) > 2 and moments[-1]["draining"] == 0):
            moments.append(json.loads(await scaler.stdout.readline()))
    scaler.send_signal(signal.SIGTERM)
    status = await asyncio.wait_for(scaler.wait(), 60)
    logs = "".join(file.read_text() for file in (tmp_path / "logs").glob("engineer-*.log"))

    assert status == 0
    assert first["engineers"] == 0
    assert max(moment["engineers"] for moment in moments) == 2
    assert len(workers) == 2
    assert len(re.findall('"event": "stopped"', logs)) == 2


@pytest.mark.slow
async def test_a_worker_trains_for_a_remote_system_and_returns_its_work_when_stopped(
    system: System, started: events.Event, tmp_path: Path
) -> None:
    """One engineer on the CPU, also beside GPUs that it does not use; SIGTERM drains it, and the command ends."""
    await system.bus.publish(micro(started))
    await propose(system.bus)
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.console", "worker", "--stages", "tiny",
        env={**system.environment, "CUDA_VISIBLE_DEVICES": "0,1"}, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    await trained(system.bus, 1)
    worker.send_signal(signal.SIGTERM)
    out, err = await asyncio.wait_for(worker.communicate(), 60)
    log = (tmp_path / "logs" / "engineer-0.log").read_text()

    assert worker.returncode == 0, err.decode()
    assert "1 engineers" in out.decode()
    assert '"event": "stopped"' in log


@pytest.mark.slow
async def test_each_engineer_has_its_own_gpu_until_it_ends(system: System, tmp_path: Path) -> None:
    """Two GPUs, two engineers; who drains is not replaced at once, and nobody is left in the end."""
    environment = {name: value for name, value in system.environment.items() if name.startswith("ASI_")}
    fleet = Fleet(["0", "3"], environment | {"ASI_ENGINEER_DEVICE": "cpu"}, tmp_path / "logs")
    fleet.resize(5)
    engineers = fleet.pids
    visible = [await asyncio.to_thread(_variable, engineer, "CUDA_VISIBLE_DEVICES") for engineer in engineers]
    fleet.resize(1)
    fleet.resize(2)
    during = (fleet.working, fleet.draining)
    await fleet.drain()

    assert visible == ["0", "3"]
    assert during == (1, 1)
    assert (fleet.working, fleet.draining) == (0, 0)
    assert not _living(engineers)


@pytest.mark.slow
async def test_an_engineer_removed_during_a_training_hands_it_over(
    system: System, started: events.Event, tmp_path: Path
) -> None:
    """It is drained, not killed: the next one goes on from its checkpoint, and there is one result."""
    settings = micro(started).run_started.settings
    settings.scale_overrides["steps"] = "400"
    await system.bus.publish(started)
    await propose(system.bus)
    environment = {name: value for name, value in system.environment.items() if name.startswith("ASI_")}
    fleet = Fleet([""], environment | {"ASI_ENGINEER_PARALLEL": "1"}, tmp_path / "logs")
    fleet.resize(1)
    await asyncio.to_thread(_wait_for_steps, tmp_path / "logs" / "engineer-0.log", 20)
    await fleet.drain()
    assert not [message async for message in system.bus.read_log("asi.v1.r1.candidate.trained")]
    fleet.resize(1)
    await trained(system.bus, 1)
    await fleet.drain()
    (logged,) = [message async for message in system.bus.read_log("asi.v1.r1.candidate.trained")]
    training = events.Event.FromString(logged.body).candidate_trained.training
    lines = _lines(tmp_path / "logs" / "engineer-0.log")
    steps = [entry["step"] for entry in lines if entry["event"] == "training"]

    assert training.attempt == 2
    assert training.seeds[0].curve[-1].step == 400
    assert [entry["event"] for entry in lines].count("handed back") == 1
    assert steps == sorted(set(steps))  # no step was taken twice


def _lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")] if log.exists() else []


def _wait_for_steps(log: Path, minimum: int) -> None:
    """Until a training has taken so many."""
    deadline = time.monotonic() + 60
    while not any(entry["event"] == "training" and entry["step"] >= minimum for entry in _lines(log)):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _living(processes: list[int]) -> list[int]:
    return [process for process in processes if Path(f"/proc/{process}").exists()]


def _variable(process: int, name: str) -> str:
    """Of another process's environment, which is there a moment after it was started."""
    for _ in range(200):
        pairs = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
        values = [pair.partition(b"=")[2].decode() for pair in pairs if pair.startswith(f"{name}=".encode())]
        if values:
            return values[0]
        time.sleep(0.05)
    raise AssertionError(f"process {process} has no {name}")
