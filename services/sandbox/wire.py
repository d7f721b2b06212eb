"""Messages between the host and a confined child: a JSON header and raw arrays, without pickle.

A message is a prefix (magic, length of the header, length of the arrays), the header, and the bytes of the arrays,
little-endian and contiguous. Readers treat the writer as hostile: lengths, depths, names, dtypes and shapes are checked
before memory is allocated, and violations raise `Malformed`.
"""

import json
import math
import os
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from services.sandbox.limits import Malformed

JSON: TypeAlias = "Mapping[str, JSON] | Sequence[JSON] | str | int | float | bool | None"
Array: TypeAlias = NDArray[np.generic]
Arrays: TypeAlias = Mapping[str, Array]
NO_ARRAYS: Arrays = MappingProxyType({})

PREFIX = struct.Struct("<4sIQ")
MAGIC = b"ASI1"
DTYPES = frozenset({"<f2", "<f4", "<f8", "|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4", "<u8", "|b1"})
TEXT_CHARACTERS = 64 << 10
"""Limit on one text of a child, and on its log."""
NAME_CHARACTERS = 1000
"""Limit on the name of one array."""

# C0 and C1 controls except tab and newline, characters that reorder or hide text, line and paragraph separators, and
# lone surrogates, which cannot be encoded.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]"
)


@dataclass(frozen=True)
class Bounds:
    """Limits of a reader: bytes of header and arrays, number and dimensions of arrays, and depth of the JSON.

    The largest message is a training's state: parameters and two moments, 5 GB for 412M parameters.
    """

    header_bytes: int = 4 << 20
    array_bytes: int = 16 << 30
    arrays: int = 1 << 14
    dimensions: int = 8
    depth: int = 32


@dataclass(frozen=True)
class Message:
    """A message: its kind, JSON header and arrays, which may contain non-finite numbers."""

    kind: str
    header: dict[str, JSON]
    arrays: dict[str, Array] = field(default_factory=dict)

    def integer(self, name: str) -> int:
        return int(cast("int", self.header[name]))


def escaped(text: str, limit: int = TEXT_CHARACTERS) -> str:
    """Untrusted text, with control characters escaped and at most `limit` characters.

    Carriage returns before newlines are removed; others are escaped, as they could hide the beginning of a line.
    """
    mark = f" [{len(text) - limit} more characters left out]" if len(text) > limit else ""
    return _UNPRINTABLE.sub(_escape, text[:limit].replace("\r\n", "\n")) + mark


def _escape(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def escaped_json(value: JSON, limit: int = TEXT_CHARACTERS) -> JSON:
    """Untrusted JSON with printable texts; strings and lists are truncated when their total size exceeds `limit`."""
    budget = [limit]

    def visit(item: JSON) -> JSON:
        budget[0] -= 8
        if isinstance(item, str):
            text = escaped(item, max(budget[0], 0))
            budget[0] -= len(text)
            return text
        if isinstance(item, Mapping):
            return {escaped(name, 200): visit(inner) for name, inner in item.items() if budget[0] > 0}
        if isinstance(item, Sequence):
            visited: list[JSON] = []
            for index, inner in enumerate(item):
                if budget[0] <= 0:
                    return [*visited, f"[{len(item) - index} more items left out]"]
                visited.append(visit(inner))
            return visited
        return item

    return visit(value)


def encode(kind: str, header: Mapping[str, JSON], arrays: Arrays) -> list[memoryview]:
    """The buffers to write for one message, in order.

    Raises:
        ValueError: the header contains NaN or infinity, or is too large.
        TypeError: an array has an unsupported dtype (bfloat16 must be converted to float32, or viewed as uint16).
    """
    contiguous = {name: np.ascontiguousarray(array).reshape(np.shape(array)) for name, array in arrays.items()}
    for name, array in contiguous.items():
        if array.dtype.str not in DTYPES:
            raise TypeError(f"array {name!r} has dtype {array.dtype}; send one of {', '.join(sorted(DTYPES))}")
    descriptions = [[name, array.dtype.str, list(array.shape)] for name, array in contiguous.items()]
    try:
        text = json.dumps({"kind": kind, "header": header, "arrays": descriptions}, allow_nan=False).encode()
    except ValueError as error:
        raise ValueError(
            f"the header of message {kind!r} is not JSON: {error}; send None for a missing number"
        ) from error
    if len(text) > Bounds().header_bytes:
        raise ValueError(f"the header of message {kind!r} has {len(text)} bytes; send big values as arrays")
    size = sum(array.nbytes for array in contiguous.values())
    buffers = [array.reshape(-1).view(np.uint8).data for array in contiguous.values() if array.nbytes]
    return [memoryview(PREFIX.pack(MAGIC, len(text), size) + text), *buffers]


def read_prefix(prefix: bytes, bounds: Bounds) -> tuple[int, int]:
    """The numbers of bytes of header and arrays. Raises Malformed if they are out of bounds."""
    magic, header_bytes, array_bytes = PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise Malformed(f"a message begins with {magic!r} instead of {MAGIC!r}")
    if header_bytes > bounds.header_bytes:
        raise Malformed(f"a message announces a header of {header_bytes} bytes; {bounds.header_bytes} are allowed")
    if array_bytes > bounds.array_bytes:
        raise Malformed(f"a message announces {array_bytes} bytes of arrays; {bounds.array_bytes} are allowed")
    return header_bytes, array_bytes


def decode(header: bytes, body: bytearray, bounds: Bounds) -> Message:
    """The message with this header and these bytes of arrays. Raises Malformed."""
    parsed = _parse(header, bounds)
    kind, values, arrays = parsed.get("kind"), parsed.get("header"), parsed.get("arrays")
    if len(parsed) != 3 or not isinstance(kind, str) or not isinstance(values, dict) or not isinstance(arrays, list):
        raise Malformed("a message's header is not an object of kind, header and arrays")
    return Message(kind, values, _split(arrays, body, bounds))


def _parse(text: bytes, bounds: Bounds) -> dict[str, JSON]:
    try:
        parsed = json.loads(text, object_pairs_hook=_distinct)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"a message's header is not JSON: {type(error).__name__}: {str(error)[:200]}") from error
    _check_value(parsed, bounds.depth)
    if not isinstance(parsed, dict):
        raise Malformed("a message's header is not a JSON object")
    return parsed


def _distinct(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    parsed = dict(pairs)
    if len(parsed) != len(pairs):
        raise ValueError("an object names a field twice")
    return parsed


def _check_value(value: JSON, depth: int) -> None:
    """Raises Malformed for nesting beyond `depth`, NaN, infinite numbers such as 1e999, and integers beyond 64 bits."""
    if depth < 0:
        raise Malformed("a message's header is nested too deeply")
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise Malformed(f"a message's header holds an integer of {value.bit_length()} bits; 64 are allowed")
    if isinstance(value, float) and not math.isfinite(value):
        raise Malformed("a message's header holds a number that is not finite")
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            _check_value(item, depth - 1)


def _split(descriptions: list[JSON], body: bytearray, bounds: Bounds) -> dict[str, Array]:
    if len(descriptions) > bounds.arrays:
        raise Malformed(f"a message describes {len(descriptions)} arrays; {bounds.arrays} are allowed")
    arrays: dict[str, Array] = {}
    offset = 0
    for item in descriptions:
        name, dtype, shape = _description(item, bounds)
        count = math.prod(shape)
        if name in arrays or dtype.itemsize * count > len(body) - offset:
            raise Malformed(f"array {name!r} is named twice or longer than the bytes that came")
        if dtype.kind == "b" and (np.frombuffer(body, np.uint8, count, offset) > 1).any():
            raise Malformed(f"array {name[:80]!r} is boolean but holds other bytes than 0 and 1")
        arrays[name] = np.frombuffer(body, dtype, count, offset).reshape(shape)
        offset += dtype.itemsize * count
    if offset != len(body):
        raise Malformed(f"a message has {len(body) - offset} bytes that belong to no array")
    return arrays


def _description(item: JSON, bounds: Bounds) -> tuple[str, np.dtype[np.generic], tuple[int, ...]]:
    if not isinstance(item, list) or len(item) != 3:
        raise Malformed("an array is not described by name, dtype and shape")
    name, dtype, shape = item
    if not isinstance(name, str) or not isinstance(dtype, str) or dtype not in DTYPES or not isinstance(shape, list):
        raise Malformed(f"array {str(name)[:80]!r} has the unsupported dtype {str(dtype)[:40]!r}")
    if escaped(name, NAME_CHARACTERS) != name:  # it could not be stored, or would rewrite a terminal
        raise Malformed(f"an array has the unprintable or too long name {escaped(name, 80)!r}")
    if len(shape) > bounds.dimensions or not all(type(n) is int and 0 <= n <= bounds.array_bytes for n in shape):
        raise Malformed(f"array {name[:80]!r} has an impossible shape")
    return name, np.dtype(dtype), tuple(shape)


class ChannelClosed(Exception):  # noqa: N818 -- not an error
    """The host has closed its end."""


class Channel:
    """The child's end, which receives requests and sends answers. Synchronous and not thread-safe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def send(self, kind: str, header: Mapping[str, JSON] | None = None, arrays: Arrays = NO_ARRAYS) -> None:
        """Send one message. Raises ValueError and TypeError as `encode` does."""
        for buffer in encode(kind, header or {}, arrays):
            rest = buffer
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]

    def receive(self) -> Message:
        """Wait for the next message. Raises ChannelClosed and Malformed."""
        bounds = Bounds()
        header_bytes, array_bytes = read_prefix(bytes(self._exactly(PREFIX.size)), bounds)
        header = bytes(self._exactly(header_bytes))
        return decode(header, self._exactly(array_bytes), bounds)

    def _exactly(self, count: int) -> bytearray:
        buffer = bytearray(count)
        view = memoryview(buffer)
        while view:
            read = os.readv(self._descriptor, [view])
            if not read:
                raise ChannelClosed
            view = view[read:]
        return buffer
