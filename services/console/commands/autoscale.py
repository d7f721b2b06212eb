"""`asi-arch autoscale` and `asi-arch worker`: engineers for a system that runs here or elsewhere."""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from services.chassis.bus import Bus
from services.chassis.bus.topology import REACH_SECONDS, engineer_durable, require_broker
from services.chassis.errors import NotPossible, SettingsError, Transient
from services.console.options import Json, run_async
from services.console.tables import say
from services.domain.ladder import SCALES
from services.local.engineer_tools import scale_values
from services.local.processes import ServiceProcess, free_port, stop_signal
from services.local.settings import ClientSettings, client_settings, require_choice, running_system, split_names

VISIBLE = "CUDA_VISIBLE_DEVICES"


class Fleet:
    """The engineers on this machine; `devices` holds the CUDA_VISIBLE_DEVICES of each slot."""

    def __init__(self, devices: Sequence[str], environment: Mapping[str, str], logs: Path) -> None:
        self._devices = devices
        self._environment = environment
        self._logs = logs
        self._working: dict[int, ServiceProcess] = {}
        self._draining: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def working(self) -> int:
        """The number of engineers that take work."""
        return len(self._working)

    @property
    def draining(self) -> int:
        """The number of engineers that finish their current work."""
        self._draining = {slot: process for slot, process in self._draining.items() if process.poll() is None}
        return len(self._draining)

    @property
    def pids(self) -> list[int]:
        """Processes of the engineers that take work, by slot."""
        return [engineer.process.pid for _, engineer in sorted(self._working.items()) if engineer.process]

    def status(self, waiting: int = 0, in_hand: int = 0) -> dict[str, int]:
        """What `--json` prints, with the messages that wait and those in progress."""
        return {"waiting": waiting, "in_hand": in_hand, "engineers": self.working, "draining": self.draining}

    def resize(self, target: int) -> None:
        """Start engineers in free slots, or drain the newest ones."""
        occupied = self._draining.keys() if self.draining else set[int]()
        free = [slot for slot in range(len(self._devices)) if slot not in self._working and slot not in occupied]
        for slot in free[: max(0, target - self.working)]:
            own = {"ASI_LISTEN": f"127.0.0.1:{free_port()}", VISIBLE: self._devices[slot]}
            engineer = ServiceProcess("engineer", {**self._environment, **own}, self._logs / f"engineer-{slot}.log")
            engineer.start()
            self._working[slot] = engineer
        while self.working > target:
            slot, engineer = self._working.popitem()
            engineer.terminate()
            if engineer.process:
                self._draining[slot] = engineer.process

    def supervise(self) -> list[str]:
        """Restart engineers that ended; their names. Raises ServiceFailed or SettingsError if one keeps failing."""
        return [f"engineer {slot}" for slot, engineer in self._working.items() if engineer.supervise()]

    async def drain(self) -> None:
        """Drain all engineers and wait for the last one, without a limit."""
        self.resize(0)
        await asyncio.gather(*(asyncio.to_thread(process.wait) for process in self._draining.values()))


def gpus(environment: Mapping[str, str] | None = None) -> list[str]:
    """The GPUs in CUDA_VISIBLE_DEVICES, else all that nvidia-smi lists."""
    environment = os.environ if environment is None else environment
    if VISIBLE in environment:
        return [name for name in split_names(environment[VISIBLE]) if name not in ("-1", "NoDevFiles")]
    tool = shutil.which("nvidia-smi", path=environment.get("PATH"))
    if tool is None:
        return []
    done = subprocess.run(
        [tool, "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


@dataclass
class EngineerTarget:
    """The target number of engineers, within bounds: raised at once, lowered after `calm` seconds of less work."""

    minimum: int
    maximum: int
    calm: float
    _backlogs: list[tuple[float, int]] = field(default_factory=list)

    def at(self, now: float, backlog: int) -> int:
        """One engineer per message: the maximum over the calm time."""
        self._backlogs = [(at, count) for at, count in self._backlogs if now - at < self.calm] + [(now, backlog)]
        return min(self.maximum, max(self.minimum, *(count for _, count in self._backlogs)))


@run_async
async def autoscale(
    stage: Annotated[str, typer.Option(help=f"whose queue is followed: {', '.join(SCALES)}")] = "tiny",
    minimum: Annotated[int, typer.Option("--min", min=0, help="minimum number of engineers")] = 0,
    maximum: Annotated[
        int | None, typer.Option("--max", min=1, help="maximum number of engineers; default: one per GPU, or per core")
    ] = None,
    every: Annotated[float, typer.Option(min=0.1, help="seconds between two polls of the queue")] = 2.0,
    calm: Annotated[float, typer.Option(min=0, help="seconds that less work must last before one is drained")] = 30.0,
    as_json: Json = False,
) -> None:
    """Run as many engineers on this machine as candidates wait or are in training; Ctrl-C drains them all.

    Works for `asi-arch run` in the same folder, or for a system elsewhere (ASI_NATS_URL, ASI_ARCHIVE_ADDRESS). An
    engineer that is removed finishes its training, or checkpoints and returns it; none is killed.
    """
    require_choice("--stage", stage, SCALES)
    settings, devices = client_settings(), devices_for([stage], maximum)
    if minimum > len(devices):
        raise SettingsError(f"--min is {minimum}, but at most {len(devices)} engineers run: lower it, or raise --max.")
    target = EngineerTarget(minimum, len(devices), calm)
    environment = engineer_environment(settings, [stage])
    client = settings.model_copy(update={"nats_url": environment["ASI_NATS_URL"]})
    beside = running_system(settings) is not None
    fleet = Fleet(devices, environment, settings.data_dir / "logs")
    with stop_signal() as stop:
        async with Bus(client, "asi-autoscale", REACH_SECONDS) as bus:
            durable = engineer_durable(stage)
            await bus.consumer(durable)  # raises BusLost if there is none
            try:
                last: dict[str, int] | None = None
                while not stop.is_set() and (running_system(settings) is not None or not beside):
                    with contextlib.suppress(Transient):  # unreachable at present: the fleet stays as it is
                        waiting, in_hand = await bus.depth(durable)
                        fleet.resize(target.at(time.monotonic(), waiting + in_hand))
                        status = fleet.status(waiting, in_hand)
                        if status != last:
                            _report(status, as_json)
                        last = status
                    fleet.supervise()
                    await _rest(stop, every)
            finally:
                await fleet.drain()


@run_async
async def worker(
    stages: Annotated[str, typer.Option(help=f"comma-separated stages to train, of {', '.join(SCALES)}")] = "explore",
    as_json: Json = False,
) -> None:
    """Train for a system elsewhere: one engineer per visible GPU, else one on the CPU; SIGTERM or Ctrl-C drains.

    ASI_NATS_URL and ASI_ARCHIVE_ADDRESS are its addresses; CUDA_VISIBLE_DEVICES selects GPUs. Artifacts are stored at
    ASI_ARTIFACTS_URL, which must be the same for all engineers of a run.
    """
    names = split_names(stages)
    for name in names:
        require_choice("--stages", name, SCALES)
    settings = client_settings()
    for variable in ("ASI_NATS_URL", "ASI_ARCHIVE_ADDRESS"):
        if variable not in os.environ:
            raise SettingsError(
                f"{variable} is not set: a worker trains for a system that runs elsewhere: set the address."
            )
    devices = devices_for(names, None)
    devices = devices if any(devices) else devices[:1]
    environment = engineer_environment(settings, names)
    await require_broker(environment["ASI_NATS_URL"])
    fleet = Fleet(devices, environment, settings.data_dir / "logs")
    with stop_signal() as stop:
        try:
            fleet.resize(len(devices))
            _report(fleet.status(), as_json)
            while not stop.is_set():
                fleet.supervise()
                await _rest(stop, 1.0)
        finally:
            await fleet.drain()


def _report(status: Mapping[str, int], as_json: bool) -> None:
    draining = f", {status['draining']} draining" if status["draining"] else ""
    queue = f"{status['waiting']} waiting, {status['in_hand']} in hand"
    say(json.dumps(status) if as_json else f"{queue}: {status['engineers']} engineers{draining}")


def devices_for(stages: Sequence[str], maximum: int | None) -> list[str]:
    """The CUDA_VISIBLE_DEVICES of each slot: one per visible GPU where a stage trains on one, else one per core.

    At most `maximum`. A stage trains on the device of its scale, or ASI_ENGINEER_DEVICE. Raises NotPossible.
    """
    own = os.environ.get("ASI_ENGINEER_DEVICE")
    on_gpu = [stage for stage in stages if (own or scale_values("--stage", stage, {})["device"]) == "cuda"]
    visible = gpus()
    if on_gpu and not visible:
        raise NotPossible(f"the stage {on_gpu[0]} trains on a GPU, and none is visible here (CUDA_VISIBLE_DEVICES)")
    devices = visible if on_gpu else [""] * (maximum or os.cpu_count() or 1)
    return devices[:maximum]


def engineer_environment(settings: ClientSettings, stages: Sequence[str]) -> dict[str, str]:
    """The engineers' environment: of the system that runs here, else of ours. Raises SettingsError."""
    system = running_system(settings)
    if system is None and "ASI_NATS_URL" not in os.environ:
        raise SettingsError(
            f"nothing runs in {settings.data_dir} and ASI_NATS_URL is not set: "
            "start `asi-arch run` here, or set the addresses of NATS and the store (ASI_ARCHIVE_ADDRESS)."
        )
    nats, archive = settings.nats_url, settings.archive_address
    if system is not None:
        nats, archive = system.nats_url, system.addresses["archive"]
    return {
        "ASI_NATS_URL": nats,
        "ASI_ARCHIVE_ADDRESS": archive,
        "ASI_DATA_DIR": str(settings.data_dir.absolute()),
        "ASI_ENGINEER_STAGES": ",".join(stages),
        "ASI_ENGINEER_PARALLEL": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }


async def _rest(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
