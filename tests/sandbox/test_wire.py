"""Reading messages of a hostile writer."""

import json

import numpy as np
import pytest

from services.sandbox import Malformed, Message
from services.sandbox.wire import JSON, MAGIC, PREFIX, Bounds, decode, encode, read_prefix

BOUNDS = Bounds(header_bytes=1000, array_bytes=1000, arrays=2, depth=4)


def travel(kind: str, header: dict[str, JSON], arrays: dict[str, np.ndarray]) -> Message:
    """Through bytes and back."""
    text = b"".join(encode(kind, header, arrays))
    size, _ = read_prefix(text[: PREFIX.size], Bounds())
    return decode(text[PREFIX.size : PREFIX.size + size], bytearray(text[PREFIX.size + size :]), Bounds())


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3, 5)])
def test_arrays_keep_value_dtype_and_shape(shape: tuple[int, ...]) -> None:
    """Empty and scalar arrays are edge cases of the format."""
    array = np.arange(np.prod(shape, dtype=int), dtype=np.int16).reshape(shape)
    message = travel("kind", {"a": [1, None, {"b": "c"}]}, {"x": array, "flag": np.array([True, False])})

    assert message.header == {"a": [1, None, {"b": "c"}]}
    assert message.arrays["x"].shape == shape
    assert message.arrays["x"].dtype == np.int16
    assert np.array_equal(message.arrays["x"], array)
    assert message.arrays["flag"].tolist() == [True, False]


def test_transposed_arrays_keep_their_values() -> None:
    """The bytes of a view are not in the order of its elements."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T

    assert np.array_equal(travel("kind", {}, {"x": array}).arrays["x"], array)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused_by_the_sender(number: float) -> None:
    """JSON has no NaN; a missing number is None."""
    with pytest.raises(ValueError, match="send None"):
        encode("kind", {"loss": number}, {})


def test_an_object_array_is_refused() -> None:
    """Objects would need pickle."""
    with pytest.raises(TypeError, match="dtype object"):
        encode("kind", {}, {"x": np.array([object()])})


@pytest.mark.parametrize(
    "prefix",
    [b"EVIL" + PREFIX.pack(MAGIC, 0, 0)[4:], PREFIX.pack(MAGIC, 1001, 0), PREFIX.pack(MAGIC, 0, 1001)],
    ids=["mark", "header", "arrays"],
)
def test_a_prefix_out_of_bounds_is_malformed(prefix: bytes) -> None:
    """Lengths are checked before memory is spent."""
    with pytest.raises(Malformed):
        read_prefix(prefix, BOUNDS)


def described(*arrays: object) -> bytes:
    """A header that describes these arrays."""
    return json.dumps({"kind": "k", "header": {}, "arrays": list(arrays)}).encode()


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (b"[1]", b""),
        (b"{}", b""),
        (b"\xff", b""),
        (b"not json", b""),
        (b'{"kind": "k", "kind": "l", "header": {}, "arrays": []}', b""),
        (b'{"kind": "k", "header": {"a": NaN}, "arrays": []}', b""),
        (b'{"kind": "k", "header": {"a": 1e999}, "arrays": []}', b""),
        (b'{"kind": "k", "header": {"a": [[[[[1]]]]]}, "arrays": []}', b""),
        (b"[" * 100_000, b""),
        (b'{"kind": "k", "header": {"a": ' + b"9" * 5000 + b'}, "arrays": []}', b""),
        (described(["x", "|O", [1]]), b"12345678"),
        (described(["x", "<f4", [-1]]), b""),
        (described(["x", "<f4", [True]]), b"1234"),
        (described(["x", "<f4", [2]]), b"1234"),
        (described(["x", "<f4", [1]]), b"12345"),
        (described(["x", "<f4", [1] * 9]), b"1234"),
        (described(["x", "|u1", [1]], ["x", "|u1", [1]]), b"12"),
        (described(["x", "|u1", [1]], ["y", "|u1", [1]], ["z", "|u1", [1]]), b"123"),
        (described(["x", "|b1", [1]]), b"\x02"),
        (described("x"), b""),
    ],
)
def test_bytes_that_are_not_exactly_a_message_are_malformed(header: bytes, body: bytes) -> None:
    """One exception type for every way of being wrong, and no other."""
    with pytest.raises(Malformed):
        decode(header, bytearray(body), BOUNDS)
