"""Engineers of this machine, as many as are wanted: one to a GPU, or one to a slot of the CPU.

What is taken away is asked to drain (SIGTERM): it finishes, or checkpoints and hands back what it has in hand. Nothing
here ever kills an engineer, and its place is not given to another before it has gone.
"""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from services.console.local.ports import free_port
from services.console.local.processes import ServiceProcess

VISIBLE = "CUDA_VISIBLE_DEVICES"


class Fleet:
    """The engineers. `places` are their slots: the value of CUDA_VISIBLE_DEVICES for each."""

    def __init__(self, places: Sequence[str], environment: Mapping[str, str], logs: Path) -> None:
        self._places = places
        self._environment = environment
        self._logs = logs
        self._working: dict[int, ServiceProcess] = {}
        self._leaving: dict[int, ServiceProcess] = {}

    @property
    def working(self) -> int:
        """Engineers that take work."""
        return len(self._working)

    @property
    def leaving(self) -> int:
        """Engineers that end what they have in hand."""
        self._leaving = {place: one for place, one in self._leaving.items() if _lives(one)}
        return len(self._leaving)

    @property
    def pids(self) -> list[int]:
        """Processes of the engineers that take work, by place."""
        return [one.process.pid for _, one in sorted(self._working.items()) if one.process]

    def resize(self, wanted: int) -> None:
        """Start what is missing, as far as there are free places; drain what is too much, the newest first."""
        taken = self._leaving.keys() if self.leaving else set[int]()
        free = [place for place in range(len(self._places)) if place not in self._working and place not in taken]
        for place in free[: max(0, wanted - self.working)]:
            self._working[place] = self._start(place)
        while self.working > wanted:
            place, engineer = self._working.popitem()
            engineer.terminate()
            self._leaving[place] = engineer

    def supervise(self) -> list[str]:
        """Start again what died; their names. Raises ServiceFailed or SettingsError for one that does not stay up."""
        return [f"engineer {place}" for place, one in self._working.items() if one.supervise()]

    async def drain(self) -> None:
        """Ask all to drain and wait until the last has gone, however long that takes."""
        self.resize(0)
        processes = [one.process for one in self._leaving.values() if one.process]
        await asyncio.gather(*(asyncio.to_thread(process.wait) for process in processes))

    def _start(self, place: int) -> ServiceProcess:
        own = {"ASI_LISTEN": f"127.0.0.1:{free_port()}", VISIBLE: self._places[place]}
        engineer = ServiceProcess("engineer", {**self._environment, **own}, self._logs / f"engineer-{place}.log")
        engineer.start()
        return engineer


def _lives(engineer: ServiceProcess) -> bool:
    return engineer.process is not None and engineer.process.poll() is None


def gpus(environment: Mapping[str, str] | None = None) -> list[str]:
    """As CUDA_VISIBLE_DEVICES names them: what that variable leaves, else every GPU that nvidia-smi lists."""
    environment = os.environ if environment is None else environment
    if VISIBLE in environment:
        named = [one.strip() for one in environment[VISIBLE].split(",")]
        return [one for one in named if one and one not in ("-1", "NoDevFiles")]
    tool = shutil.which("nvidia-smi", path=environment.get("PATH"))
    if tool is None:
        return []
    done = subprocess.run(
        [tool, "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    return [one.strip() for one in done.stdout.splitlines() if one.strip()] if done.returncode == 0 else []
