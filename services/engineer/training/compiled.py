"""What compilers made for one training, for the next ones: kernels that candidates share are compiled once.

A child's caches lie in its own folder and end with it, and no child may write where another one reads: what one
program leaves there would be executed by the next. So only the caches of trainings of the zoo, whose programs are ours,
are kept by the host, and handed to later children through the pipe. In them are fla's kernels with the outcome of their
tuning, and the kernels of the parts around the mixer; what is a candidate's own it still compiles itself.
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
from services.engineer.training.ports import Array

MOST_BYTES = 256 << 20
ARRAY = "compiled"
_PLACE = "TRITON_CACHE_DIR"
_PROGRAMS = frozenset(baseline.program for baseline in baselines())


@dataclass(frozen=True)
class CompileCache:
    """The caches of one device and one set of versions, in a file of the host's."""

    path: Path

    @classmethod
    def below(cls, folder: Path, device: str, versions: Mapping[str, str]) -> "CompileCache":
        """Where the caches of this device and these versions lie."""
        key = hashlib.sha256(json.dumps([device, dict(versions)], sort_keys=True).encode()).hexdigest()[:16]
        return cls(folder / f"compiled-{key}.tar")

    def arrays(self) -> dict[str, Array]:
        """For the message that begins a training; empty where nothing is kept yet."""
        return {ARRAY: np.fromfile(self.path, dtype=np.uint8)} if self.path.is_file() else {}

    def wants(self, program: str) -> bool:
        """Whether what was compiled for the program is to be kept: of the zoo alone, and once."""
        return program in _PROGRAMS and not self.path.is_file()

    def keep(self, content: Array) -> None:
        """Write what a child of a program of the zoo has sent; too much of it is not kept."""
        if 0 < content.nbytes <= MOST_BYTES:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            partial = self.path.with_suffix(f".{os.getpid()}.partial")
            content.tofile(partial)
            partial.replace(self.path)


def pack() -> Array:
    """The compilers' caches in this child's folder. Guest side."""
    place, buffer = Path(os.environ.get(_PLACE, ".")), io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(place.rglob("*")):
            if path.is_file() and not path.is_symlink():
                archive.add(path, str(path.relative_to(place)), recursive=False)
    return np.frombuffer(buffer.getvalue(), dtype=np.uint8)


def unpack(arrays: Mapping[str, Array]) -> None:
    """Put caches that came with a message where compilers look for them. Guest side."""
    if ARRAY in arrays:
        with tarfile.open(fileobj=io.BytesIO(arrays[ARRAY].tobytes())) as archive:
            archive.extractall(os.environ[_PLACE], filter="data")
