"""Real text without a network: the source of the running interpreter's own standard library (PSF licence)."""

import hashlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.engineer.data.corpus import ByteTokens, Corpus, CorpusError, fingerprint_of

# Tables and third-party code: bytes that teach a language model nothing, or that differ between machines.
LEFT_OUT = frozenset({"site-packages", "test", "tests", "__pycache__", "encodings", "pydoc_data", "turtledemo"})
_HELDOUT_SHARE, _VERIFICATION_SHARE = 5, 5


def python_source(folder: Path | None = None, least_bytes: int = 2_000_000) -> Corpus:
    """Every .py file below `folder` (default: the standard library), whole files split by the hash of their content.

    Equal files land in the same part, so nothing held out was also trained on. Raises CorpusError below `least_bytes`.
    """
    root = folder or Path(sysconfig.get_paths()["stdlib"])
    parts: dict[str, list[bytes]] = {"train": [], "heldout": [], "verification": []}
    for content in _files(root):
        parts[part_of(content)].append(content)
    train, heldout, verification = (_joined(parts[name]) for name in ("train", "heldout", "verification"))
    if len(train) + len(heldout) + len(verification) < least_bytes:
        raise CorpusError(
            f"{root} holds {len(train) + len(heldout) + len(verification)} bytes of Python source, {least_bytes} are "
            "needed: install the standard library with its source files."
        )
    return Corpus(
        name="python-source",
        tokens=ByteTokens(),
        train=train,
        heldout=heldout,
        verification=verification,
        heldout_bytes_per_token=1.0,
        fingerprint=fingerprint_of(train, heldout, verification),
    )


def part_of(content: bytes) -> str:
    """Which part a document belongs to: a matter of its content alone, 90 : 5 : 5 by chance."""
    bucket = int.from_bytes(hashlib.sha256(content).digest()[:8], "little") % 100
    if bucket < _HELDOUT_SHARE:
        return "heldout"
    return "verification" if bucket < _HELDOUT_SHARE + _VERIFICATION_SHARE else "train"


def _files(root: Path) -> Iterator[bytes]:
    seen: set[bytes] = set()
    for path in sorted(root.rglob("*.py"), key=lambda p: p.relative_to(root).as_posix()):
        if LEFT_OUT.isdisjoint(path.relative_to(root).parts):
            content = path.read_bytes()
            digest = hashlib.sha256(content).digest()
            if digest not in seen:
                yield content
            seen.add(digest)


def _joined(files: list[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"\n".join(files), dtype=np.uint8)
