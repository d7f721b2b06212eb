"""A folder or file of one's own as a corpus: text in UTF-8, JSON lines, or shards of token numbers (.bin).

Text is cut into pieces at blank lines and shards at document boundaries; a keyed hash of a piece says to which part it
belongs, so that equal pieces are never both trained on and held out. The parts are written to the cache once.

Shards are rows of little-endian 16-bit numbers (bytes, where the tokenizer is "bytes"), as nanoGPT and its kin write
them. What they were made with is the scale's `tokenizer`, or that of a file `tokens.json` beside them:
{"tokenizer": "gpt2"}.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.engineer.data.corpus import (
    ByteTokens,
    Corpus,
    CorpusError,
    TokenArray,
    Tokens,
    fingerprint_of,
    part_of,
)
from services.engineer.data.hub import PARTS, open_tokens

SHARD, LINES = ".bin", ".jsonl"
PIECE_BYTES, PIECE_TOKENS = 4096, 16_384
"""A piece is at least as long, unless the file ends."""
HELDOUT_SHARE = VERIFICATION_SHARE = 10
"""Per cent of the pieces: collections of one's own are smaller than those of the hub."""


@dataclass(frozen=True)
class Piece:
    """One document or part of one: what its part is decided by, and its tokens."""

    content: bytes
    tokens: TokenArray


def files_corpus(place: Path, *, tokenizer: str, field: str, heldout_tokens: int, cache: Path, secret: bytes) -> Corpus:
    """The corpus in a file or folder. `field` holds the text in JSON lines.

    Raises CorpusError where nothing can be read, or less is held out than `heldout_tokens`.
    """
    files = _files(place)
    tokenizer = tokenizer or _noted_tokenizer(files)
    tokens = open_tokens(tokenizer)
    folder = cache / _key(files, tokenizer, field, secret)
    if not (folder / "about.json").is_file():
        _write(folder, _pieces(files, tokens, field), tokens, secret)
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    train, heldout, verification = (_part(folder, name, about["width"]) for name in PARTS)
    for name, part in (("held-out", heldout), ("verification", verification)):
        if len(part) < heldout_tokens:
            raise CorpusError(
                f"{place} leaves {len(part)} {name} tokens ({HELDOUT_SHARE} % by chance), but the scale needs "
                f"{heldout_tokens}; give more text, or lower heldout_blocks or context."
            )
    return Corpus(
        name=place.name,
        tokens=tokens,
        train=train,
        heldout=heldout,
        verification=verification,
        heldout_bytes_per_token=about["heldout_bytes"] / max(1, len(heldout)),
        fingerprint=fingerprint_of(train, heldout, verification),
        secret=secret,
    )


def _files(place: Path) -> list[Path]:
    """In a fixed order; hidden ones and the note on tokens left out."""
    if not place.exists():
        raise CorpusError(f"There is no file or folder {place}: set dataset to one that this machine has.")
    found = [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())
    kept = [path for path in found if not path.name.startswith(".") and path.name != "tokens.json"]
    if not kept:
        raise CorpusError(f"The folder {place} holds no file.")
    if any(path.suffix == SHARD for path in kept):
        kept = [path for path in kept if path.suffix == SHARD]
    return kept


def _noted_tokenizer(files: list[Path]) -> str:
    note = files[0].parent / "tokens.json"
    if note.is_file():
        return str(json.loads(note.read_text(encoding="utf-8"))["tokenizer"])
    if files[0].suffix == SHARD:
        raise CorpusError(
            f"{files[0]} holds token numbers: set tokenizer to what they were made with (a name on the hub, a folder, "
            f'or bytes), or write {{"tokenizer": …}} to {note}.'
        )
    return ""


def _key(files: list[Path], tokenizer: str, field: str, secret: bytes) -> str:
    seen = [(str(path.absolute()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    digest = hashlib.sha256(json.dumps([seen, tokenizer, field, PIECE_BYTES, PIECE_TOKENS]).encode() + secret)
    return f"files-{digest.hexdigest()[:16]}"


def _pieces(files: list[Path], tokens: Tokens, field: str) -> Iterator[Piece]:
    for path in files:
        if path.suffix == SHARD:
            yield from _shard_pieces(path, tokens)
        else:
            for text in _texts(path, field):
                row: TokenArray = np.array([*tokens.encode(text), tokens.boundary]).astype(_kind(tokens))
                yield Piece(text.encode("utf-8"), row)


def _texts(path: Path, field: str) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            if path.suffix == LINES:
                for number, line in enumerate(file, 1):
                    row = json.loads(line) if line.strip() else {field: ""}
                    if field not in row:
                        raise CorpusError(f"{path}, line {number} has no field {field!r}; set text_field.")
                    yield str(row[field])
                return
            piece = ""
            for line in file:
                piece += line
                if len(piece) >= PIECE_BYTES and (not line.strip() or len(piece) >= 2 * PIECE_BYTES):
                    yield piece
                    piece = ""
            yield piece
    except UnicodeDecodeError:
        raise CorpusError(
            f"{path} is not text in UTF-8; token numbers lie in files that end in {SHARD}, and other files must go."
        ) from None
    except json.JSONDecodeError as error:
        raise CorpusError(f"{path} is not JSON lines: {error}.") from None


def _shard_pieces(path: Path, tokens: Tokens) -> Iterator[Piece]:
    """Runs of whole documents, or of a fixed length where no document ends."""
    if path.stat().st_size % np.dtype(_kind(tokens)).itemsize:
        raise CorpusError(f"{path} is no row of 16-bit token numbers: its size is odd.")
    row: TokenArray = np.memmap(path, dtype=_kind(tokens), mode="r")
    if len(row) and int(row.max()) >= tokens.vocabulary:
        raise CorpusError(
            f"{path} holds the token {int(row.max())}, but the tokenizer has {tokens.vocabulary}: set tokenizer to "
            "the one that the shards were made with."
        )
    start = 0
    while start < len(row):
        near = row[start + PIECE_TOKENS : start + 2 * PIECE_TOKENS]
        ends = np.flatnonzero(near == tokens.boundary)
        length = PIECE_TOKENS + (int(ends[0]) + 1 if len(ends) else len(near))
        piece: TokenArray = row[start : start + length].copy()
        yield Piece(piece.tobytes(), piece)
        start += length


def _write(folder: Path, pieces: Iterator[Piece], tokens: Tokens, secret: bytes) -> None:
    """Write the parts, then the note that says they are whole."""
    folder.mkdir(parents=True, exist_ok=True)
    heldout_bytes = 0
    outputs = {name: (folder / f"{name}.tokens").open("wb") for name in PARTS}
    try:
        for piece in pieces:
            part = part_of(piece.content, secret, HELDOUT_SHARE, VERIFICATION_SHARE)
            outputs[part].write(piece.tokens.tobytes())
            if part == "heldout":
                heldout_bytes += len(tokens.decode(piece.tokens.tolist()).encode("utf-8"))
    finally:
        for output in outputs.values():
            output.close()
    partial = folder / "about.partial"
    partial.write_text(json.dumps({"width": np.dtype(_kind(tokens)).itemsize, "heldout_bytes": heldout_bytes}))
    partial.replace(folder / "about.json")


def _part(folder: Path, name: str, width: int) -> TokenArray:
    path = folder / f"{name}.tokens"
    if not path.stat().st_size:
        return np.empty(0, dtype=np.uint8)
    part: NDArray[np.uint8] | NDArray[np.uint16] = np.memmap(path, dtype=f"<u{width}", mode="r")
    return part


def _kind(tokens: Tokens) -> str:
    return "u1" if tokens.vocabulary == ByteTokens.vocabulary else "<u2"
