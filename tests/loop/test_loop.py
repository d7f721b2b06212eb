"""The whole loop: five services as processes, real NATS, real gRPC, real training."""

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.local.system import ORDER
from tests.loop.conftest import BENCHMARKS, UNREPEATED, Command, micro_flags, rows_of, running

OWN = Path(__file__).parents[2] / "examples" / "programs" / "decaying_average.py"
TRAINING = '"event": "training"'
SOON_AGAIN = {"ASI_SILENCE_SECONDS": "10"}  # what nobody could hand back comes again after so long
RUN = ("run", "--candidates", "1", "--baselines", "delta_net,linear_attention", *micro_flags(), *UNREPEATED)


def test_a_run_ends_with_every_candidate_measured_and_can_be_queried(asi_arch: Command) -> None:
    """Proposed, checked, trained, evaluated, judged, analysed and archived; then list, show, tree and status."""
    ranked = rows_of(asi_arch(*RUN, "--seed-program", str(OWN), "--json", *micro_flags(*BENCHMARKS)))

    assert len(ranked) == 4
    assert next(row for row in ranked if row["id"] == "c000003")["name"] == "decaying_average"
    assert {row["state"] for row in ranked} <= {"archived", "rejected"}
    listed = rows_of(asi_arch("list", "--json"))
    needed = {
        "id",
        "name",
        "run",
        "parent",
        "stage",
        "state",
        "loss",
        "benchmark",
        "judge",
        "fitness",
        "parameters",
        "seconds",
    }
    assert all(needed <= row.keys() for row in listed)
    root = next(row for row in listed if row["id"] == "c000001")
    assert isinstance(root["loss"], float)
    assert isinstance(root["benchmark"], float)
    assert root["judge"] == 5.0
    tree = rows_of(asi_arch("tree", "--json"))
    assert {node["id"] for node in tree} == {row["id"] for row in listed}
    assert {"id", "parent", "name", "fitness"} <= tree[0].keys()
    shown = asi_arch("show", "c000001", "--program").stdout
    assert "class DeltaNet" in shown
    assert "finished" in asi_arch("status").stdout
    assert asi_arch("show", "c999999", ok=False).returncode == 1


def test_an_impossible_flag_gives_one_message_and_starts_no_run(asi_arch: Command) -> None:
    """Before anything starts."""
    for flags, named in ((("--scale", "huge"), "--scale"), (("--baselines", "deltanet"), "--baselines"),
                         (("--set", "steps"), "--set"), (("--run", "a b"), "--run")):  # fmt: skip
        done = asi_arch("run", *flags, ok=False)
        assert done.returncode == 2
        assert named in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_scale_that_this_machine_cannot_train_is_refused_before_the_run(
    environment: dict[str, str], asi_arch: Command
) -> None:
    """Nobody else can reach the broker: the run would wait for ever."""
    environment["CUDA_VISIBLE_DEVICES"] = ""
    refused = asi_arch("run", "--candidates", "1", *micro_flags(), "--set", "device=cuda", ok=False)

    assert refused.returncode == 2
    assert "torch finds none here: use a machine with one, or set device=cpu" in refused.stderr
    assert rows_of(asi_arch("runs", "--json")) == []


@pytest.mark.slow
def test_every_process_may_be_killed_and_each_candidate_has_one_result(
    environment: dict[str, str], asi_arch: Command
) -> None:
    """SIGKILL of the store while the speed of training is measured: the run begins in the new one. Then of the engineer
    amid a training, and of store, judge, analyst, researcher and the broker itself.
    """
    data = Path(environment["ASI_DATA_DIR"])
    environment |= SOON_AGAIN
    with running([*RUN, "--set", "steps=60"], environment) as run:
        deadline = time.monotonic() + 60
        while len(pids := _system_pids(data)) < len(ORDER) + 1:
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(pids["store"], signal.SIGKILL)
        _wait_for_training(run, data / "logs" / "engineer.log")
        for name in ("engineer", "store", "judge", "analyst", "researcher", "broker"):
            _kill_and_wait_for_another(run, data, name)
        out, _ = run.communicate(timeout=280)

    assert run.returncode == 0, out
    assert out.index("the store ended unexpectedly and was started again") < out.index("run r1")
    assert not _pids("services.engineer", data)
    rows = rows_of(asi_arch("list", "--json"))
    assert len(rows) == 3
    assert {row["state"] for row in rows} <= {"archived", "rejected"}
    assert all(isinstance(row["loss"], float) for row in rows if row["kind"] == "baseline")
    assert json.loads(asi_arch("replay", "--json").stdout)["agrees"]


@pytest.mark.slow
def test_a_run_resumes_after_its_terminal_is_lost_and_after_a_kill(
    environment: dict[str, str], asi_arch: Command
) -> None:
    """The end of a connection drains and pauses, as Ctrl-C; after SIGKILL the kernel tells the services, which drain;
    nothing is there twice.
    """
    data = Path(environment["ASI_DATA_DIR"])
    environment |= SOON_AGAIN
    with _in_a_terminal([*RUN, "--set", "steps=60"], environment) as lost:
        _wait_for_training(lost, data / "logs" / "engineer.log")
    assert lost.wait(90) == 130
    assert "paused" in asi_arch("status").stdout

    trained = (data / "logs" / "engineer.log").read_text().count(TRAINING)
    with running(["run", "--resume"], environment, quiet=True) as run:
        _wait_for_training(run, data / "logs" / "engineer.log", trained)
        pids = json.loads((data / "system.json").read_text())["pids"].values()
        run.kill()
    deadline = time.monotonic() + 90
    while left := [pid for pid in pids if _lives(pid)]:
        assert time.monotonic() < deadline, f"orphans: {left}"
        time.sleep(0.2)

    rows = rows_of(asi_arch("run", "--resume", "--json"))
    assert len(rows) == 3
    assert {row["state"] for row in rows} <= {"archived", "rejected"}


@pytest.mark.slow
def test_a_signal_to_every_process_ends_a_run_within_seconds(environment: dict[str, str], asi_arch: Command) -> None:
    """As of Slurm and systemd: the broker ends before the engineer could hand its work back."""
    data = Path(environment["ASI_DATA_DIR"])
    log = data / "logs" / "engineer.log"
    with running([*RUN, "--set", "steps=600"], environment) as run:
        _wait_for_training(run, log)
        pids = _system_pids(data).values()
        for pid in (run.pid, *pids):
            os.kill(pid, signal.SIGTERM)
        out, _ = run.communicate(timeout=25)

    assert run.returncode == 130
    assert "run r1: paused" in out
    assert "paused; 0:00" not in out, "the time until its last event, which was the request of the baselines"

    assert not [name for name in ORDER if _pids(f"services.{name}", data)]
    assert not [pid for pid in pids if _lives(pid)]
    assert "handed back" in log.read_text()
    assert "could not be given back" not in log.read_text()
    assert "paused" in asi_arch("status").stdout


@pytest.mark.parametrize("begun", ["store", "researcher"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_during_the_start_ends_everything_before_a_run_exists(
    environment: dict[str, str], asi_arch: Command, begun: str, number: signal.Signals
) -> None:
    """While the first or the last of the services starts; then the same command begins a run as if nothing had been."""
    data = Path(environment["ASI_DATA_DIR"])
    with running(RUN, environment, quiet=True) as run:
        deadline = time.monotonic() + 60
        while not _pids(f"services.{begun}", data):
            assert run.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        run.send_signal(number)
        assert run.wait(60) == 130

    assert not [name for name in (*ORDER, "broker") if _pids(f"services.{name}", data)]
    assert not (data / "system.json").exists()
    assert not (data / "archive.db").exists() or rows_of(asi_arch("runs", "--json")) == []


@contextmanager
def _in_a_terminal(flags: Sequence[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a terminal of its own, which is closed at the end of the context."""
    ours, its = os.openpty()
    lost = threading.Event()

    def read() -> None:
        while not lost.is_set():
            if select.select([ours], [], [], 0.1)[0]:
                os.read(ours, 1 << 16)

    process = subprocess.Popen(
        [sys.executable, "-m", "services.console", *flags], env=environment, stdin=its, stdout=its, stderr=its,
        start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(its)
    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield process
    finally:
        lost.set()
        reader.join()
        os.close(ours)


def _system_pids(data: Path) -> dict[str, int]:
    """The processes of the system of a data folder; none before its store runs."""
    file = data / "system.json"
    pids: dict[str, int] = json.loads(file.read_text())["pids"] if file.exists() else {}
    return pids


def _kill_and_wait_for_another(run: subprocess.Popen[str], data: Path, name: str) -> None:
    """SIGKILL; the runner then starts another process."""
    killed = _system_pids(data)[name]
    os.kill(killed, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while _system_pids(data)[name] == killed:
        assert run.poll() is None, "the run ended before all of its processes were killed"
        assert time.monotonic() < deadline, f"the {name} was not started again"
        time.sleep(0.05)


def _wait_for_training(run: subprocess.Popen[str] | subprocess.Popen[bytes], log: Path, before: int = 0) -> None:
    """Until an engineer has taken more steps than `before`: on a busy machine services start in minutes."""
    deadline = time.monotonic() + 240
    while not (log.exists() and log.read_text().count(TRAINING) > before):
        assert run.poll() is None, "the run ended before anything was trained"
        assert time.monotonic() < deadline, "nothing was trained in four minutes"
        time.sleep(0.05)


def _pids(module: str, data: Path) -> list[str]:
    """Processes of this module that work on this data folder."""
    names = []
    for process in Path("/proc").iterdir():
        try:
            command, around = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
        except OSError:
            continue
        if f"-m\0{module}\0".encode() in command and str(data).encode() in around:
            names.append(process.name)
    return names


def _lives(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
