"""A real MongoDB for the tests that need one."""

import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pymongo
import pytest
from pymongo.errors import PyMongoError

NO_MONGOD = "no mongod: install one (https://www.mongodb.com/docs/manual/installation/) or set TEST_MONGOD to its path"


def mongod_binary() -> str:
    """Where the server is; where there is none, the test is skipped with a sentence on how to get one."""
    binary = os.environ.get("TEST_MONGOD") or shutil.which("mongod")
    if not binary:
        pytest.skip(NO_MONGOD)
    return binary


class Mongod:
    """A mongod of this session's own, a replica set of one: transactions need that."""

    def __init__(self, binary: str, folder: Path, replica_set: bool = True) -> None:
        self._binary = binary
        self._replica_set = replica_set
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._command = [
            binary, "--dbpath", str(folder), "--port", str(self.port), "--bind_ip", "127.0.0.1", "--quiet",
            "--setParameter", "transactionLifetimeLimitSeconds=10",
            "--wiredTigerCacheSizeGB", "0.25", "--logpath", str(folder / "mongod.log"),
            *(["--replSet", "rs0"] if replica_set else []),
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Without a database's name."""
        return f"mongodb://127.0.0.1:{self.port}"

    def another(self, folder: Path, replica_set: bool = True) -> "Mongod":
        """A second server of the same binary, not started."""
        return Mongod(self._binary, folder, replica_set)

    def start(self) -> None:
        """Run it until it takes writes."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        if not self._replica_set:
            return
        with pymongo.MongoClient[dict[str, object]](self.url, directConnection=True) as client:
            try:
                client.admin.command(
                    "replSetInitiate", {"_id": "rs0", "members": [{"_id": 0, "host": f"127.0.0.1:{self.port}"}]}
                )
            except PyMongoError as error:
                if "already initialized" not in str(error):
                    raise
        with pymongo.MongoClient[dict[str, object]](self.url, replicaSet="rs0") as client:
            client.admin.command("ping")

    def signal(self, number: signal.Signals) -> None:
        """Send it to the server."""
        if self._process is not None:
            self._process.send_signal(number)

    def stop(self) -> None:
        """End it at once: what it has acknowledged is on disk."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)
            self._process = None
