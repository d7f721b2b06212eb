"""Real text without a network: the source of the running interpreter's own standard library (PSF licence)."""

import hashlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.engineer.data.corpus import ByteTokens, Corpus, CorpusError, fingerprint_of, part_of

# Tables and third-party code: bytes that teach a language model nothing, or that differ between machines.
LEFT_OUT = frozenset({"site-packages", "test", "tests", "__pycache__", "encodings", "pydoc_data", "turtledemo"})
# What the fork server has imported. A program finds the documentation of these modules in its memory, so their text is
# trained on and never held out; the files themselves it cannot open.
IN_MEMORY = frozenset(
    """
    __future__ _collections_abc _compat_pickle _compression _pyio _sitebuiltins _weakrefset abc argparse ast asyncio
    base64 bisect bz2 cProfile calendar codecs collections colorsys concurrent contextlib contextvars copy copyreg
    csv ctypes dataclasses datetime decimal _pydecimal difflib dis email enum fnmatch fractions functools
    genericpath getopt getpass gettext glob gzip hashlib heapq hmac html http importlib inspect io ipaddress json
    keyword linecache locale logging lzma mimetypes multiprocessing nturl2path ntpath numbers opcode operator
    optparse os pathlib pdb bdb cmd code codeop pickle pickletools pkgutil platform posixpath pprint profile pstats
    queue quopri random re reprlib runpy sched secrets selectors shlex shutil signal site socket socketserver
    sre_compile sre_constants sre_parse ssl stat statistics string stringprep struct subprocess symtable sysconfig
    tarfile tempfile textwrap threading timeit token tokenize tomllib trace traceback types typing unittest doctest
    urllib uuid warnings weakref zipfile zipimport
    """.split()  # noqa: SIM905 - a hundred quoted names are harder to read
)
_HELDOUT_SHARE, _VERIFICATION_SHARE = 15, 15


def python_source(secret: bytes, folder: Path | None = None, least_bytes: int = 2_000_000) -> Corpus:
    """Every .py file below `folder` (default: the standard library), whole files split by a keyed hash of their text.

    Equal files land in the same part, so nothing held out was also trained on. Raises CorpusError below `least_bytes`.
    """
    root = folder or Path(sysconfig.get_paths()["stdlib"])
    parts: dict[str, list[bytes]] = {"train": [], "heldout": [], "verification": []}
    for path, content in _files(root):
        name = path.relative_to(root).parts[0].removesuffix(".py")
        part = "train" if name in IN_MEMORY else part_of(content, secret, _HELDOUT_SHARE, _VERIFICATION_SHARE)
        parts[part].append(content)
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
        secret=secret,
    )


def _files(root: Path) -> Iterator[tuple[Path, bytes]]:
    """Paths and contents in a fixed order, equal contents once."""
    seen: set[bytes] = set()
    for path in sorted(root.rglob("*.py"), key=lambda p: p.relative_to(root).as_posix()):
        if LEFT_OUT.isdisjoint(path.relative_to(root).parts):
            content = path.read_bytes()
            digest = hashlib.sha256(content).digest()
            if digest not in seen:
                yield path, content
            seen.add(digest)


def _joined(files: list[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"\n".join(files), dtype=np.uint8)
