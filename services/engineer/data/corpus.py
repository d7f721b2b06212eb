"""A corpus: one long row of tokens per part, how text becomes tokens, and the order in which they are trained on.

Two corpora need no network: Python's own source, and prose from the documentation strings of packages that an engineer
depends on. Nothing is shipped: both are read where they are installed, so that their licences are kept.
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
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

TokenArray = NDArray[np.uint8] | NDArray[np.uint16]
Part = Literal["train", "heldout", "verification"]
HELDOUT_SHARE, VERIFICATION_SHARE = 5, 5
"""Per cent of the documents, by chance."""


class CorpusError(Exception):
    """The text that a scale needs is missing or too short. The message says what to do, before any training."""


class Tokens(Protocol):
    """Turns text into token numbers and back."""

    @property
    def vocabulary(self) -> int:
        """How many different tokens there are."""
        ...

    @property
    def boundary(self) -> int:
        """The token that stands before the first one of a text without context."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token numbers of a text, without added marks."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of token numbers; bytes that are not text become replacement characters."""
        ...


class ByteTokens:
    """Every byte of UTF-8 is a token; a line feed stands before the beginning."""

    vocabulary = 256
    boundary = 10

    def encode(self, text: str) -> list[int]:
        """The bytes of `text`."""
        return list(text.encode("utf-8"))

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`."""
        return bytes(tokens).decode("utf-8", errors="replace")


@dataclass(frozen=True)
class Corpus:
    """Three disjoint parts of one source of text.

    `train` is all a training child gets, `heldout` is what candidates are scored and selected by, and `verification` is
    kept for the statistics of later stages, so that selection cannot wear it out. `heldout_bytes_per_token` turns nats
    per token into bits per byte. `fingerprint` is the SHA-256 of the three parts. `secret` decides what a program must
    not be able to compute: the documents that are held out, the questions asked and the places compared.
    """

    name: str
    tokens: Tokens
    train: TokenArray
    heldout: TokenArray
    verification: TokenArray
    heldout_bytes_per_token: float
    fingerprint: str
    secret: bytes

    def random(self, purpose: str) -> np.random.Generator:
        """A random generator that is unpredictable without the secret; equal for the same corpus and purpose."""
        return np.random.default_rng(int.from_bytes(keyed(self.secret, purpose.encode()), "little"))


def secret_in(folder: Path, text_seed: str | None = None) -> bytes:
    """The secret of all corpora of an installation: of `text_seed`, else drawn once and kept in `folder`."""
    if text_seed:
        return hashlib.sha256(text_seed.encode()).digest()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "secret"
    drawn = folder / f"secret.{os.getpid()}.{secrets.token_hex(4)}"
    if not path.exists():
        drawn.touch(mode=0o600)
        drawn.write_bytes(secrets.token_bytes(32))
        with contextlib.suppress(FileExistsError):  # another engineer has drawn one meanwhile
            os.link(drawn, path)
        drawn.unlink()
    return path.read_bytes()


def keyed(secret: bytes, content: bytes) -> bytes:
    """32 bytes that depend on the content and cannot be computed without the secret."""
    return hmac.digest(secret, content, "sha256")


def part_of(
    content: bytes, secret: bytes, heldout: int = HELDOUT_SHARE, verification: int = VERIFICATION_SHARE
) -> Part:
    """The part of a document: equal documents share one, which is unpredictable without the secret."""
    bucket = int.from_bytes(keyed(secret, content)[:8], "little") % 100
    if bucket < heldout:
        return "heldout"
    return "verification" if bucket < heldout + verification else "train"


def fingerprint_of(*parts: TokenArray) -> str:
    """SHA-256 over the parts' lengths, widths and contents, little-endian."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:{part.dtype.itemsize};".encode())
        for start in range(0, len(part), 1 << 24):
            digest.update(np.ascontiguousarray(part[start : start + (1 << 24)]).tobytes())
    return digest.hexdigest()


def heldout_blocks(part: TokenArray, count: int, context: int) -> NDArray[np.int64]:
    """`count` blocks [count, context + 1], spread evenly over a part and never overlapping.

    Raises CorpusError where the part is too short for them.
    """
    width = context + 1
    if len(part) < count * width:
        raise CorpusError(
            f"{count} held-out blocks of {context} tokens need {count * width} tokens, but the part has {len(part)}; "
            "lower heldout_blocks or context."
        )
    stride = len(part) // count
    return np.stack([part[i * stride : i * stride + width] for i in range(count)]).astype(np.int64)


def batches(
    part: TokenArray, *, batch: int, context: int, seed: int, first: int, count: int
) -> Iterator[NDArray[np.int64]]:
    """Batches [batch, context + 1] of the steps first … first + count - 1.

    The part is cut into windows that overlap by one token; each pass over them is a fresh permutation. Asking for steps
    from the middle gives what an uninterrupted run would have seen there.
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


# What every engineer has through torch, fla and lm-eval. What the fork server imports (torch, numpy, sympy) is left
# out: a program finds those strings in its memory.
PACKAGES = (
    "datasets", "huggingface_hub", "networkx", "nltk", "openai",
    "pandas", "pyarrow", "scipy", "sklearn", "transformers",
)  # fmt: skip
_STRING = re.compile(r'"""(.+?)"""', re.DOTALL)
_PARAGRAPHS = re.compile(r"\n\s*\n|\n(?=\s*[-*•:>]|\s*\d+\.|\s*\w+ : )")
_PROSE = re.compile(r"[A-Z][^<>{}\[\]=_|\\@#*~^$/]{59,1999}[.:!?]")
_LETTERS = re.compile(r"[A-Za-z ]")
_LEAST_LETTERS = 0.93


def documentation(secret: bytes, tokens: Tokens, roots: Sequence[Path] = (), least_bytes: int = 2_000_000) -> Corpus:
    """The prose of every package, a document per module, split by a keyed hash of the document.

    A paragraph that several modules have is taken once, so that nothing held out was also trained on. `roots` are the
    folders to read instead of the packages'. Raises CorpusError below `least_bytes` of text.
    """
    parts: dict[str, list[str]] = {"train": [], "heldout": [], "verification": []}
    for document in _documents(roots or tuple(_folders())):
        parts[part_of(document.encode(), secret, _HELDOUT_SHARE, _VERIFICATION_SHARE)].append(document)
    texts = {name: "\n\n".join(documents) for name, documents in parts.items()}
    size = sum(len(text.encode()) for text in texts.values())
    if size < least_bytes:
        raise CorpusError(
            f"The documentation of the installed packages holds {size} bytes of prose, {least_bytes} are needed: "
            "install the extra `engineer` with its packages' source files."
        )
    train, heldout, verification = (_row(tokens, texts[name]) for name in ("train", "heldout", "verification"))
    return Corpus(
        name="documentation",
        tokens=tokens,
        train=train,
        heldout=heldout,
        verification=verification,
        heldout_bytes_per_token=len(texts["heldout"].encode()) / max(1, len(heldout)),
        fingerprint=fingerprint_of(train, heldout, verification),
        secret=secret,
    )


def _folders() -> Iterator[Path]:
    for package in PACKAGES:
        spec = find_spec(package)  # does not import it
        if spec is not None and spec.origin is not None:
            yield Path(spec.origin).parent


def _documents(roots: Iterable[Path]) -> Iterator[str]:
    """The prose of each module that has some, in a fixed order."""
    seen: set[str] = set()
    for root in roots:
        for path in sorted(root.rglob("*.py"), key=lambda p: p.relative_to(root).as_posix()):
            paragraphs = []
            for string in _STRING.findall(path.read_text(encoding="utf-8", errors="replace")):
                for paragraph in map(_one_line, _PARAGRAPHS.split(string)):
                    if paragraph not in seen and _is_prose(paragraph):
                        seen.add(paragraph)
                        paragraphs.append(paragraph)
            if paragraphs:
                yield "\n".join(paragraphs)


def _one_line(paragraph: str) -> str:
    return " ".join(paragraph.replace("`", "").split())


def _is_prose(paragraph: str) -> bool:
    """Whether it reads like sentences: no code, no table, no list of parameters."""
    if _PROSE.fullmatch(paragraph) is None:
        return False
    return len(_LETTERS.findall(paragraph)) >= _LEAST_LETTERS * len(paragraph)


def _row(tokens: Tokens, text: str) -> TokenArray:
    row = tokens.encode(text)
    return np.array(row, dtype=np.uint8) if tokens.vocabulary <= 256 else np.array(row, dtype=np.uint16)
