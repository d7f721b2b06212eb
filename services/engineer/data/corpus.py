"""Corpora: tokenisation, the three parts of a text, and the order of training batches.

Two corpora need no network: the source of Python's standard library, and prose from the docstrings of installed
packages. Both are read where they are installed, so no text is redistributed.
"""

import contextlib
import hashlib
import hmac
import os
import re
import secrets
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Literal, Protocol, cast

import numpy as np
import structlog
from numpy.typing import NDArray

TokenArray = NDArray[np.uint8] | NDArray[np.uint16]
Part = Literal["train", "heldout", "verification"]
HELDOUT_SHARE, INSTALLED_SHARE = 5, 15
"""Percentage of documents, drawn at random, that are held out, and as many for verification; of texts that are
installed here, which are smaller, more."""


class CorpusError(ValueError):
    """The text of a scale is missing or too short. The message says how to fix it."""


class Tokens(Protocol):
    """A tokenizer."""

    @property
    def vocabulary(self) -> int:
        """The number of different tokens."""

    @property
    def boundary(self) -> int:
        """The token that separates documents and precedes a text without context."""

    def encode(self, text: str) -> list[int]:
        """Token numbers of a text, without special tokens."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token numbers; invalid bytes become replacement characters."""


class ByteTokens:
    """Bytes of UTF-8 as tokens; the boundary is a line feed."""

    vocabulary = 256
    boundary = 10

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8"))

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(tokens).decode("utf-8", errors="replace")


@dataclass(frozen=True)
class Corpus:
    """Three disjoint parts of one source of text.

    The training child gets only `train`. `heldout` is used to score and select candidates, and `verification` for the
    statistics of later stages, which are thus independent of selection. `heldout_bytes_per_token` converts nats per
    token to bits per byte. `fingerprint` is the SHA-256 of the three parts. The random choices of scoring (held-out
    documents, questions, compared positions) are keyed by `secret`, so that programs cannot compute them.
    """

    name: str
    tokens: Tokens
    train: TokenArray
    heldout: TokenArray
    verification: TokenArray
    heldout_bytes_per_token: float
    fingerprint: str
    secret: bytes

    @classmethod
    def of(cls, name: str, tokens: Tokens, parts: Iterable[TokenArray], heldout_bytes: int, secret: bytes) -> "Corpus":
        """A corpus of the parts `train`, `heldout` and `verification`, with their fingerprint."""
        train, heldout, verification = parts
        bytes_per_token = heldout_bytes / max(1, len(heldout))
        fingerprint = fingerprint_of(train, heldout, verification)
        return cls(name, tokens, train, heldout, verification, bytes_per_token, fingerprint, secret)

    def random(self, purpose: str) -> np.random.Generator:
        """A generator seeded by the secret and the purpose."""
        return np.random.default_rng(int.from_bytes(keyed(self.secret, purpose.encode()), "little"))


def read_secret(folder: Path, text_seed: str | None = None) -> bytes:
    """The secret of an installation's corpora: derived from `text_seed`, else drawn once and stored in `folder`."""
    if text_seed:
        return hashlib.sha256(text_seed.encode()).digest()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "secret"
    drawn = folder / f"secret.{os.getpid()}.{secrets.token_hex(4)}"
    if not path.exists():
        if (folder.parent / "work").exists():
            structlog.get_logger().warning(
                "the secret of held-out text was lost, a new one is drawn",
                file=str(path), consequence="results on the new text are not compared with earlier ones",
            )  # fmt: skip
        drawn.touch(mode=0o600)
        drawn.write_bytes(secrets.token_bytes(32))
        with contextlib.suppress(FileExistsError):  # another engineer created it in the meantime
            os.link(drawn, path)
        drawn.unlink()
    return path.read_bytes()


def keyed(secret: bytes, content: bytes) -> bytes:
    return hmac.digest(secret, content, "sha256")


def part_of(content: bytes, secret: bytes, share: int = HELDOUT_SHARE) -> Part:
    """The part that a document belongs to, by a keyed hash of its content. `share` is as HELDOUT_SHARE."""
    bucket = int.from_bytes(keyed(secret, content)[:8], "little") % 100
    if bucket < share:
        return "heldout"
    return "verification" if bucket < 2 * share else "train"


def fingerprint_of(*parts: TokenArray) -> str:
    """SHA-256 over the parts' lengths, widths and contents, little-endian."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:{part.dtype.itemsize};".encode())
        for start in range(0, len(part), 1 << 24):
            digest.update(np.ascontiguousarray(part[start : start + (1 << 24)]).tobytes())
    return digest.hexdigest()


def heldout_blocks(part: TokenArray, count: int, context: int) -> NDArray[np.int64]:
    """`count` disjoint blocks [count, context + 1], spread evenly over a part. Raises CorpusError for a short part."""
    width = context + 1
    if len(part) < count * width:
        raise CorpusError(
            f"{count} held-out blocks of {context} tokens need {count * width} tokens, but the part has {len(part)}; "
            "lower heldout_blocks or context."
        )
    stride = len(part) // count
    return np.stack([part[i * stride : i * stride + width] for i in range(count)]).astype(np.int64)


def share_of(part: TokenArray, rung: int, rungs: int) -> TokenArray:
    """The share of a part that is held out for one of several rungs; the shares are disjoint."""
    length = len(part) // max(1, rungs)
    start = (max(1, rung) - 1) * length
    return part[start : start + length]


def batches(
    part: TokenArray, *, batch: int, context: int, seed: int, first: int, count: int
) -> Iterator[NDArray[np.int64]]:
    """Batches [batch, context + 1] of the steps first … first + count - 1.

    The part is cut into windows that overlap by one token; each epoch is a new permutation of them. A batch depends on
    its step and the seed only, so that a resumed training sees the same data.
    """
    windows = (len(part) - 1) // context
    if windows < batch:
        raise CorpusError(f"One batch needs {batch} windows of {context} tokens, but the training part has {windows}.")
    epoch, permutation = -1, np.empty(0, dtype=np.int64)
    for step in range(first, first + count):
        rows = []
        for position in range(step * batch, (step + 1) * batch):
            if position // windows != epoch:
                epoch = position // windows
                permutation = np.random.default_rng([seed, epoch]).permutation(windows)
            start = int(permutation[position % windows]) * context
            rows.append(part[start : start + context + 1])
        yield np.stack(rows).astype(np.int64)


# Tables, and code that differs between machines.
EXCLUDED = frozenset({"site-packages", "test", "tests", "__pycache__", "encodings", "pydoc_data", "turtledemo"})
# Modules that the fork server imports. Programs can find their docstrings in memory, so these texts are trained on and
# never held out. Programs cannot open the files themselves.
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


def python_source(secret: bytes, folder: Path | None = None, least_bytes: int = 2_000_000) -> Corpus:
    """Every .py file below `folder` (default: the standard library), split by a keyed hash of the whole file.

    Equal files belong to the same part. Raises CorpusError below `least_bytes`.
    """
    root = folder or Path(sysconfig.get_paths()["stdlib"])
    parts: dict[str, list[bytes]] = {"train": [], "heldout": [], "verification": []}
    for path, content in _files(root):
        name = path.relative_to(root).parts[0].removesuffix(".py")
        part = "train" if name in IN_MEMORY else part_of(content, secret, INSTALLED_SHARE)
        parts[part].append(content)
    texts = [np.frombuffer(b"\n".join(files), dtype=np.uint8) for files in parts.values()]
    size = sum(map(len, texts))
    if size < least_bytes:
        raise CorpusError(
            f"{root} holds {size} bytes of Python source, {least_bytes} are needed: install the standard library with "
            "its source files."
        )
    return Corpus.of("python-source", ByteTokens(), texts, len(texts[1]), secret)


def _files(root: Path) -> Iterator[tuple[Path, bytes]]:
    """Paths and contents in a fixed order, without duplicates."""
    digests: set[bytes] = set()
    paths = list[Path]()
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in EXCLUDED]  # site-packages may hold 100,000 files
        paths += [Path(folder, name) for name in names if name.endswith(".py")]
    for path in sorted(paths, key=lambda p: p.relative_to(root).as_posix()):
        content = path.read_bytes()
        digest = hashlib.sha256(content).digest()
        if digest not in digests:
            yield path, content
        digests.add(digest)


# Dependencies of torch, fla and lm-eval. Packages that the fork server imports (torch, numpy, sympy) are excluded, as
# programs can find their docstrings in memory.
PACKAGES = (
    "datasets", "huggingface_hub", "networkx", "nltk", "openai",
    "pandas", "pyarrow", "scipy", "sklearn", "transformers",
)  # fmt: skip
_STRING = re.compile(r'"""(.+?)"""', re.DOTALL)
_PARAGRAPHS = re.compile(r"\n\s*\n|\n(?=\s*[-*•:>]|\s*\d+\.|\s*\w+ : )")
_PROSE = re.compile(r"[A-Z][^<>{}\[\]=_|\\@#*~^$/]{59,1999}[.:!?]")  # no code, table or list of parameters
_LETTERS = re.compile(r"[A-Za-z ]")
_MIN_LETTER_SHARE = 0.93


def documentation(secret: bytes, tokens: Tokens, roots: Sequence[Path] = (), least_bytes: int = 2_000_000) -> Corpus:
    """Prose from docstrings, one document per module, split by a keyed hash of the document.

    Duplicate paragraphs are removed, so that held-out text is never in the training part. `roots` are the folders to
    read (default: those of PACKAGES). Raises CorpusError below `least_bytes` of text.
    """
    parts: dict[str, list[str]] = {"train": [], "heldout": [], "verification": []}
    specs = (PathFinder.find_spec(package) for package in PACKAGES)  # imports nothing, sees no stand-in of one
    folders = (Path(spec.origin).parent for spec in specs if spec is not None and spec.origin is not None)
    for document in _documents(roots or folders):
        parts[part_of(document.encode(), secret, INSTALLED_SHARE)].append(document)
    texts = {name: "\n\n".join(documents) for name, documents in parts.items()}
    size = sum(len(text.encode()) for text in texts.values())
    if size < least_bytes:
        raise CorpusError(
            f"The documentation of the installed packages holds {size} bytes of prose, {least_bytes} are needed: "
            "install the extra `engineer` with its packages' source files."
        )
    dtype = np.uint8 if tokens.vocabulary <= 256 else np.uint16
    encoded = (cast("TokenArray", np.array(tokens.encode(text), dtype=dtype)) for text in texts.values())
    return Corpus.of("documentation", tokens, encoded, len(texts["heldout"].encode()), secret)


def _documents(roots: Iterable[Path]) -> Iterator[str]:
    """The prose of each module that has some, in a fixed order, without duplicate paragraphs."""
    used: set[str] = set()
    for root in roots:
        for path in sorted(root.rglob("*.py"), key=lambda p: p.relative_to(root).as_posix()):
            paragraphs = []
            for string in _STRING.findall(path.read_text(encoding="utf-8", errors="replace")):
                for lines in _PARAGRAPHS.split(string):
                    paragraph = " ".join(lines.replace("`", "").split())
                    if paragraph in used or not _PROSE.fullmatch(paragraph):
                        continue
                    if len(_LETTERS.findall(paragraph)) >= _MIN_LETTER_SHARE * len(paragraph):
                        used.add(paragraph)
                        paragraphs.append(paragraph)
            if paragraphs:
                yield "\n".join(paragraphs)
