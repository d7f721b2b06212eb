"""Three nats-servers that keep three copies of the log, in the place of one; the leader is what gets killed."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any
from urllib.error import URLError

from services.local.processes import ends_with_parent, find_nats_server, free_port

SIZE = 3
START_SECONDS = 60.0


class Cluster:
    """As `services.local.processes.Broker`, of three servers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = [free_port() for _ in range(SIZE)]
        self._monitors = [free_port() for _ in range(SIZE)]
        self._routes = [free_port() for _ in range(SIZE)]
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        """All of them."""
        return ",".join(f"nats://127.0.0.1:{port}" for port in self._ports)

    @property
    def monitor_url(self) -> str:
        """Of all of them."""
        return ",".join(f"http://127.0.0.1:{port}" for port in self._monitors)

    @property
    def pid(self) -> int | None:
        """The process id of the log's leader; None if there is none."""
        leader = self._leader()
        return self._processes[leader].pid if leader is not None else None

    def start(self) -> None:
        """Start those that are down and wait until the cluster answers."""
        routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in self._routes)
        for number in range(SIZE):
            if number in self._processes:
                continue
            folder = self._folder / f"n{number}"
            folder.mkdir(parents=True, exist_ok=True)
            config = folder / "nats.conf"
            config.write_text(
                f'server_name: n{number}\nhost: "127.0.0.1"\nport: {self._ports[number]}\n'
                f'http: "127.0.0.1:{self._monitors[number]}"\n'
                f'jetstream {{ store_dir: "{folder}", sync_interval: always }}\n'
                f'cluster {{ name: chaos, listen: "127.0.0.1:{self._routes[number]}", routes: [{routes}] }}\n'
            )
            with (folder / "log").open("ab") as log:
                command = ends_with_parent([str(find_nats_server()), "-c", str(config)])
                self._processes[number] = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + START_SECONDS
        while not all(self._jsz(number).get("meta_cluster", {}).get("leader") for number in range(SIZE)):
            if time.monotonic() > deadline:
                raise TimeoutError("the cluster has no leader")
            time.sleep(0.2)

    def kill(self) -> None:
        """SIGKILL for the leader of the log; the other two go on."""
        leader = self._leader()
        if leader is not None:
            self._end(leader)

    def stop(self) -> None:
        """End all."""
        for number in list(self._processes):
            self._end(number)

    def _end(self, number: int) -> None:
        process = self._processes.pop(number)
        process.kill()
        process.wait(20)

    def _leader(self) -> int | None:
        for number in self._processes:
            for account in self._jsz(number).get("account_details", []):
                for stream in account.get("stream_detail", []):
                    leader = stream.get("cluster", {}).get("leader", "")
                    if stream["name"] == "EVENTS" and leader and int(leader[1:]) in self._processes:
                        return int(leader[1:])
        return None

    def _jsz(self, number: int) -> dict[str, Any]:
        try:
            url = f"http://127.0.0.1:{self._monitors[number]}/jsz?streams=true"
            with urllib.request.urlopen(url, timeout=2) as answer:
                content: dict[str, Any] = json.load(answer)
                return content
        except (URLError, OSError, ValueError):
            return {}
