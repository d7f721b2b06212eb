"""A cache of compiled kernels, passed from one training to later ones.

A child's compiler caches are in its own folder and deleted with it, and no child may write files that another one
reads, as these would be executed there. The host therefore stores only the caches of trainings of the zoo's programs,
which are trusted, and sends them to later children. They contain fla's kernels with their tuning results, and the
kernels of the surrounding model; a candidate's own kernels are compiled in each training. Each training begins with
what is stored, so it leaves that and its own.
"""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from services.domain.zoo import baselines
from services.sandbox import Array
from services.sandbox.limits import FILES

MAX_BYTES = 256 << 20
MAX_FILES = FILES // 2
"""Limit on stored files and folders: a child that has extracted them can create as many."""
ARRAY = "compiled"
_FOLDER = "TRITON_CACHE_DIR"
_PROGRAMS = frozenset(baseline.program for baseline in baselines())


@dataclass(frozen=True)
class CompileCache:
    """The compiler caches for one device and one set of versions, in a file of the host."""

    path: Path

    @classmethod
    def below(cls, folder: Path, device: str, versions: Mapping[str, str]) -> "CompileCache":
        key = hashlib.sha256(json.dumps([device, dict(versions)], sort_keys=True).encode()).hexdigest()[:16]
        return cls(folder / f"compiled-{key}.tar")

    def arrays(self) -> dict[str, Array]:
        """The arrays for the message that begins a training; empty if there is no cache yet."""
        return {ARRAY: np.fromfile(self.path, dtype=np.uint8)} if self.path.is_file() else {}

    def accepts(self, program: str) -> bool:
        """Whether to store the caches of a program: those of the zoo."""
        return program in _PROGRAMS

    def store(self, content: Array) -> None:
        """Store the caches from a child if they are more than what is stored, unless they exceed MAX_BYTES."""
        if (self.path.stat().st_size if self.path.is_file() else 0) < content.nbytes <= MAX_BYTES:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial = self.path.with_suffix(f".{os.getpid()}.partial")
            content.tofile(partial)
            partial.replace(self.path)


def pack() -> Array:
    """The compiler caches of this child; empty if they are more than MAX_FILES."""
    folder, buffer = Path(os.environ.get(_FOLDER, ".")), io.BytesIO()
    paths = sorted(folder.rglob("*"))
    if len(paths) > MAX_FILES:
        return np.empty(0, dtype=np.uint8)
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in paths:
            if path.is_file() and not path.is_symlink():
                archive.add(path, str(path.relative_to(folder)), recursive=False)
    return np.frombuffer(buffer.getvalue(), dtype=np.uint8)


def unpack(arrays: Mapping[str, Array]) -> None:
    """Extract compiler caches from a message in this child."""
    if ARRAY in arrays:
        with tarfile.open(fileobj=io.BytesIO(arrays[ARRAY].tobytes())) as archive:
            archive.extractall(os.environ[_FOLDER], filter="data")
