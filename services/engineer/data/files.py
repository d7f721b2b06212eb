"""A local file or folder as a corpus: text in UTF-8, JSON lines, or shards of token numbers (.bin).

Text is split into pieces at blank lines, if there are any, and shards at document boundaries. A keyed hash of a piece
decides its part, so equal pieces are never both trained on and held out. The parts are written to the cache once.

Shards hold little-endian 16-bit numbers (bytes, if the tokenizer is "bytes"), as in nanoGPT. Their tokenizer is the
scale's `tokenizer`, or is named in a file `tokens.json` beside them: {"tokenizer": "gpt2"}.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from services.engineer.data.corpus import ByteTokens, Corpus, CorpusError, TokenArray, Tokens, part_of
from services.engineer.data.hub import DEFAULT_FIELD, PARTS, open_tokens
from services.engineer.scales import Scale

SHARD, LINES = ".bin", ".jsonl"
PIECE_BYTES, PIECE_TOKENS = 4096, 16_384
"""Minimum size of a piece, except at the end of a file."""
HELDOUT_SHARE = 10
"""As `corpus.HELDOUT_SHARE`; higher than for the hub, since local collections are smaller."""
Piece = tuple[bytes, TokenArray]
"""A document or part of one: the content that decides its part, and its tokens."""


def files_corpus(scale: Scale, cache: Path, secret: bytes) -> Corpus:
    """The corpus in the scale's file or folder. Raises CorpusError if nothing or too little can be read."""
    path, field = Path(scale.dataset), scale.text_field or DEFAULT_FIELD  # the field of JSON lines
    with _permitted(path):
        files = _files(path)
        tokenizer = scale.tokenizer or _recorded_tokenizer(files)
        states = [(str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    tokens = open_tokens(tokenizer)
    digest = hashlib.sha256(json.dumps([states, tokenizer, field, PIECE_BYTES, PIECE_TOKENS]).encode() + secret)
    folder = cache / f"files-{digest.hexdigest()[:16]}"
    if not (folder / "about.json").is_file():
        _write(folder, _pieces(files, tokens, field), tokens, secret)
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    parts = [_part(folder / f"{name}.tokens", tokens) for name in PARTS]
    for name, part in zip(("held-out", "verification"), parts[1:], strict=True):
        if len(part) < scale.heldout_tokens:
            raise CorpusError(
                f"{path} leaves {len(part)} {name} tokens ({HELDOUT_SHARE} % by chance), but the scale needs "
                f"{scale.heldout_tokens}; give more text (equal pieces are one), or lower heldout_blocks or context."
            )
    return Corpus.of(path.name, tokens, parts, about["heldout_bytes"], secret)


@contextmanager
def _permitted(path: Path) -> Iterator[None]:
    """Raises CorpusError for text that may not be read; otherwise a missing permission is the machine's fault."""
    try:
        yield
    except PermissionError:
        raise CorpusError(
            f"{path} may not be read by the engineer's user: allow it, or give another dataset."
        ) from None


def _files(root: Path) -> list[Path]:
    """The shards if there are any, else all files, in a fixed order; without hidden files and tokens.json."""
    if not root.exists():
        raise CorpusError(f"There is no file or folder {root}: set dataset to one that this machine has.")
    paths = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
    files = [path for path in paths if not path.name.startswith(".") and path.name != "tokens.json"]
    if not files:
        raise CorpusError(f"The folder {root} holds no file.")
    return [path for path in files if path.suffix == SHARD] or files


def _recorded_tokenizer(files: list[Path]) -> str:
    path = files[0].parent / "tokens.json"
    if path.is_file():
        try:
            return str(json.loads(path.read_text(encoding="utf-8"))["tokenizer"])
        except (ValueError, KeyError, TypeError):
            raise CorpusError(f'{path} must be JSON such as {{"tokenizer": "gpt2"}}.') from None
    if files[0].suffix == SHARD:
        raise CorpusError(
            f"{files[0]} holds token numbers: set tokenizer to the one they were made with (a name on the hub, a "
            f'folder, or bytes), or write {{"tokenizer": …}} to {path}.'
        )
    return ""


def _pieces(files: list[Path], tokens: Tokens, field: str) -> Iterator[Piece]:
    for path in files:
        with _permitted(path):
            if path.suffix == SHARD:
                yield from _shard_pieces(path, tokens)
                continue
            for text in _texts(path, field):
                yield text.encode("utf-8"), np.array([*tokens.encode(text), tokens.boundary]).astype(_dtype(tokens))


def _texts(path: Path, field: str) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            if path.suffix == LINES:
                for number, line in enumerate(file, 1):
                    try:
                        row = json.loads(content) if (content := line.strip()) else {field: ""}
                    except (ValueError, RecursionError) as error:
                        reason = getattr(error, "msg", error)
                        raise CorpusError(f"{path}, line {number} is not JSON: {reason}.") from None
                    text = row.get(field) if isinstance(row, dict) else None
                    if not isinstance(text, str):
                        raise CorpusError(f"{path}, line {number} has no field {field!r} with text; set text_field.")
                    yield text.encode("utf-8", "replace").decode("utf-8")  # JSON may hold half of a surrogate pair
                return
            piece = ""
            while line := file.readline(2 * PIECE_BYTES):  # not the whole line: a text may have a single one
                piece += line
                if len(piece) >= PIECE_BYTES and (not line.strip() or len(piece) >= 2 * PIECE_BYTES):
                    yield piece
                    piece = ""
            yield piece
    except UnicodeDecodeError:
        raise CorpusError(
            f"{path} is not text in UTF-8: convert or decompress it, give token numbers the suffix {SHARD}, and remove "
            "other binary files."
        ) from None


def _shard_pieces(path: Path, tokens: Tokens) -> Iterator[Piece]:
    """Pieces that end at a document boundary, or have a fixed length if there is none."""
    if path.stat().st_size % np.dtype(_dtype(tokens)).itemsize:
        raise CorpusError(f"{path} does not hold 16-bit token numbers: its size is odd.")
    row: TokenArray = np.memmap(path, dtype=_dtype(tokens), mode="r")
    if len(row) and int(row.max()) >= tokens.vocabulary:
        raise CorpusError(
            f"{path} holds the token {int(row.max())}, but the tokenizer has {tokens.vocabulary}: set tokenizer to "
            "the one that the shards were made with."
        )
    start = 0
    while start < len(row):
        following = row[start + PIECE_TOKENS : start + 2 * PIECE_TOKENS]
        ends = np.flatnonzero(following == tokens.boundary)
        length = PIECE_TOKENS + (int(ends[0]) + 1 if len(ends) else len(following))
        piece: TokenArray = row[start : start + length].copy()
        yield piece.tobytes(), piece
        start += length


def _write(folder: Path, pieces: Iterator[Piece], tokens: Tokens, secret: bytes) -> None:
    """Write the parts, then `about.json`, which marks them as complete."""
    folder.mkdir(parents=True, exist_ok=True)
    heldout_bytes = 0
    with ExitStack() as stack:
        outputs = {name: stack.enter_context((folder / f"{name}.tokens").open("wb")) for name in PARTS}
        for content, row in pieces:
            part = part_of(content, secret, HELDOUT_SHARE)
            outputs[part].write(row.tobytes())
            if part == "heldout":
                heldout_bytes += len(tokens.decode(row.tolist()).encode("utf-8"))
    partial = folder / "about.partial"
    partial.write_text(json.dumps({"heldout_bytes": heldout_bytes}))
    partial.replace(folder / "about.json")


def _part(path: Path, tokens: Tokens) -> TokenArray:
    kind = _dtype(tokens)
    part: TokenArray = np.memmap(path, kind, mode="r") if path.stat().st_size else np.empty(0, kind)
    return part


def _dtype(tokens: Tokens) -> str:
    return "u1" if tokens.vocabulary == ByteTokens.vocabulary else "<u2"
