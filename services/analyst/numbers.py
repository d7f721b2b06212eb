"""Does a text cite only numbers that a record holds? An analysis that invents one is not taken.

A number with decimals or a percent sign must equal, at the digits it is written with, a number of the record, the
difference or the ratio of two of them, or such a share in per cent. Whole numbers up to 4096, years and arXiv ids are
words of the field (two heads, chunk 64, arXiv:2406.06484) and are let through.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import permutations

_NUMBER = re.compile(r"(?<![\w.])[-+−]?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?\s?%?")
_ARXIV = re.compile(r"\d{4}\.\d{4,5}")
SMALL = 4096
MOST_PAIRED = 120  # numbers of which differences and ratios are formed


def invented(text: str, record: Iterable[float]) -> list[str]:
    """The numbers of the text that the record does not hold, as they are written there."""
    known = list(dict.fromkeys(abs(one) for one in record))
    return [found for found in _cited(text) if not _held(found, known)]


def _cited(text: str) -> Iterator[str]:
    for match in _NUMBER.finditer(_ARXIV.sub(" ", text)):
        yield match.group().strip()


def _held(written: str, known: Sequence[float]) -> bool:
    plain = written.replace(",", "").replace("−", "-").rstrip("%").strip()
    value, percent = abs(float(plain)), written.endswith("%")
    decimals = len(plain.partition(".")[2].partition("e")[0].partition("E")[0])
    if not percent and decimals == 0 and value <= SMALL:
        return True
    tolerance = 0.5 * 10.0**-decimals * 1.001
    return any(abs(one * (100 if percent else 1) - value) <= tolerance for one in _derived(known))


def _derived(known: Sequence[float]) -> Iterator[float]:
    yield from known
    yield from (round(one, 0) for one in known)
    for one, other in permutations(known[:MOST_PAIRED], 2):
        yield abs(one - other)
        if other:
            yield one / other
            yield abs(one - other) / other
