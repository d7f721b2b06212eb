"""English prose without a network: paragraphs from the documentation strings of packages that an engineer depends on.

It is text from another source than `python-source`: sentences instead of code, by other authors, about other things.
Nothing is shipped; the text is read where the packages are installed, so that their licences are kept.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from services.engineer.data.corpus import Corpus, CorpusError, TokenArray, Tokens, fingerprint_of, part_of

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
_HELDOUT_SHARE, _VERIFICATION_SHARE = 15, 15


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
                for paragraph in map(_joined, _PARAGRAPHS.split(string)):
                    if paragraph not in seen and _is_prose(paragraph):
                        seen.add(paragraph)
                        paragraphs.append(paragraph)
            if paragraphs:
                yield "\n".join(paragraphs)


def _joined(paragraph: str) -> str:
    return " ".join(paragraph.replace("`", "").split())


def _is_prose(paragraph: str) -> bool:
    """Whether it reads like sentences: no code, no table, no list of parameters."""
    if _PROSE.fullmatch(paragraph) is None:
        return False
    return len(_LETTERS.findall(paragraph)) >= _LEAST_LETTERS * len(paragraph)


def _row(tokens: Tokens, text: str) -> TokenArray:
    row = tokens.encode(text)
    return np.array(row, dtype=np.uint8) if tokens.vocabulary <= 256 else np.array(row, dtype=np.uint16)
