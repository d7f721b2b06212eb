"""Live progress of a run: trainings with remaining times, waits, running clocks."""

from __future__ import annotations

import asyncio
import os
from contextlib import redirect_stdout

from services.chassis.bus import Bus
from services.chassis.worker import Activity, training, waiting_for
from services.contracts import archive_pb2, candidate_pb2
from services.contracts import progress_pb2 as pb
from services.report.progress import Progress, View
from services.report.rows import row


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def flying(name: str = "c000002") -> candidate_pb2.Candidate:
    return candidate_pb2.Candidate(id=name, run="r1", state=candidate_pb2.STATE_TRAINING)


def status(ended: int = 0) -> archive_pb2.RunStatus:
    """Of ten candidates."""
    about = archive_pb2.RunStatus(run="r1", phase="searching", states={"archived": ended, "training": 1}, in_flight=1)
    about.settings.budget.candidates = 10
    return about


def announced(step: int, left: float, **more: object) -> pb.Progress:
    training = pb.TrainingProgress(seed=1, step=step, steps=100, loss=2.5, tokens_per_second=9000, seconds_left=left)
    return pb.Progress(run="r1", candidate="c000002", service="engineer", attempt=1, trainings=[training], **more)  # type: ignore[arg-type]


def test_an_evaluation_is_timed_from_the_end_of_the_trainings() -> None:
    """Not from the service's start with the candidate, which includes the training."""
    clock = Clock()
    view = View(clock)
    view.update(status(), [row(flying())])
    for step, seconds in ((10, 50.0), (100, 20.0), (100, 3.0)):
        view.record(announced(step, 0))
        clock.seconds += seconds

    assert "c000002 engineer evaluates, 0:23" in view.line()


def test_a_training_has_steps_loss_speed_and_a_time_left_that_never_grows() -> None:
    """Even if the machine has become slower."""
    clock = Clock()
    view = View(clock)
    view.update(status(), [row(flying())])
    view.record(announced(10, 50))
    first = view.line()
    view.record(announced(20, 80))

    assert "c000002 step 10/100, loss 2.500, 9,000 tokens/s, 0:50 left" in first
    assert "step 20/100, loss 2.500, 9,000 tokens/s, 0:50 left" in view.line()
    clock.seconds += 60
    assert "step" not in view.line()  # nobody has announced anything for a minute


def test_the_runs_time_left_never_grows_and_its_clock_ticks() -> None:
    """By the pace since the command began."""
    clock = Clock()
    view = View(clock)
    view.update(status(), [])
    clock.seconds += 10
    view.update(status(ended=2), [])
    first = view.line()
    clock.seconds += 100

    assert first.startswith("0:10 searching: 1 training, 2 archived, about 0:40 left")
    assert view.line().startswith("1:50 searching: 1 training, 2 archived, about 0:40 left")


def test_a_wait_shows_its_reason_duration_and_attempt() -> None:
    """Whoever looks knows that nothing hangs."""
    view = View()
    view.update(status(), [row(flying())])
    waits = pb.Progress(run="r1", candidate="c000002", service="judge", attempt=2, waits_for="the model")
    waits.since.GetCurrentTime()
    view.record(waits)

    assert "c000002 judge waits for the model, 0:00, attempt 2" in view.line()


async def test_announced_progress_reaches_listeners(bus: Bus) -> None:
    """Over the bus, outside of the log, at every change."""
    activity = Activity("r1", "c000002", "engineer", 1, bus.announce)
    async with bus.announcements("r1") as queue, activity.announcing():
        await _until(queue, lambda announced: not announced.trainings)
        training(pb.TrainingProgress(seed=3, step=5, steps=10))
        await _until(queue, lambda announced: [training.seed for training in announced.trainings] == [3])
        with waiting_for("the model", attempt=2):
            await _until(queue, lambda announced: announced.waits_for == "the model" and announced.attempt == 2)
        await _until(queue, lambda announced: not announced.waits_for and announced.attempt == 1)
    training(pb.TrainingProgress(seed=3))  # outside of a delivery it goes nowhere

    assert [logged async for logged in bus.read_log()] == []


async def test_nothing_is_announced_once_the_work_is_over() -> None:
    """Even where the last change comes at the very end: two announcers would contradict each other for ever."""

    async def send(_state: pb.Progress) -> None:
        await asyncio.sleep(0)

    before = asyncio.all_tasks()
    for _ in range(5):
        async with Activity("r1", "c000002", "judge", 1, send).announcing():
            with waiting_for("the model", attempt=2):
                await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)

    assert asyncio.all_tasks() == before


async def _until(queue: asyncio.Queue[pb.Progress], holds: object) -> None:
    async with asyncio.timeout(20):
        while not holds(await queue.get()):  # type: ignore[operator]
            pass


def test_a_lost_terminal_ends_no_run() -> None:
    """Its writes fail before the signal that pauses the run is handled; a closed pipe ends a command as before."""
    ours, its = os.openpty()
    with open(its, "w") as terminal:  # noqa: PTH123
        with redirect_stdout(terminal), Progress() as progress:
            progress.note("before")
            os.close(ours)
            progress.note("after")
        os.dup2(os.open(os.devnull, os.O_WRONLY), its)
