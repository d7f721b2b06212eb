"""Parsing texts that were written to break the parser or the reader of its tree."""

import sys
import time

import pytest

from services.domain.structure import fingerprint
from services.domain.syntax import Unreadable, lines_of, parse, require_shallow

DEEP = {
    "attributes": "x = a" + ".b" * 80_000,
    "stored attributes": "a" + ".b" * 80_000 + " = 1",
    "calls": "x = f" + "()" * 60_000,
    "subscripts": "x = f" + "[0]" * 60_000,
    "sums": "x = 1" + "+1" * 80_000,
    "lambdas": "x = " + "lambda: " * 20_000 + "1",
    "negations": "x = " + "not " * 50_000 + "1",
    "branches": "if 1:\n pass\n" + "elif 1:\n pass\n" * 10_000,
}


@pytest.mark.parametrize("program", DEEP.values(), ids=DEEP)
def test_deep_programs_are_refused_with_one_message(program: str) -> None:
    """A RecursionError out of the parser would end the service that reads the program."""
    with pytest.raises(Unreadable, match="nested too deeply"):
        require_shallow(parse(program))


@pytest.mark.parametrize("depth", [900, 2000])
def test_a_tree_deeper_than_the_recursion_limit_has_no_fingerprint(depth: int) -> None:
    """A tree that the parser accepts may be too deep to traverse recursively."""
    with pytest.raises(ValueError, match="can be parsed"):
        fingerprint("x = a" + ".b" * depth)


@pytest.mark.parametrize(
    ("program", "sentence"),
    [
        ("x = '\0'", "line 1: the text holds a null byte"),
        ("x = 1\ny = '\ud800'", "line 2: the text holds half of a surrogate pair"),
        ("x = (1", "line 1: '\\(' was never closed"),
        ("x = 1\nif:", "line 2: invalid syntax"),
        ("x = 1\n```\n", "line 2: a Markdown fence"),
        ("Here it is:\n\n```python\nx = 1\n```\n", "line 1: invalid syntax: of a text with Markdown fences"),
        ('"""\n```\nx\n```\n"""\nx = = 1\n', rf"line 6: invalid syntax \(Python 3.{sys.version_info.minor}\)"),
        ("\nx = " + "1 + " * 220 + "1", "line 2: the program is nested too deeply"),
        ("#" * (300 << 10), "the program has 307200 bytes; 262144 are allowed"),
        ("f'" + "{x}" * 60_000 + "'", "more than 4000 opening braces"),
    ],
)
def test_what_cannot_be_parsed_is_named_with_its_line(program: str, sentence: str) -> None:
    """An author, human or not, repairs what the message points at."""
    with pytest.raises(Unreadable, match=sentence):
        require_shallow(parse(program))


@pytest.mark.parametrize(
    "program",
    [
        "\ufeffx = 1",
        "x = y" + ".view(1)" * 80,
        "x = " + "(" * 90 + "1" + ")" * 90,
        "x = '" + "{}" * 1000 + "'",
        "if 1:\n pass\n" + "elif 1:\n pass\n" * 80,
    ],
    ids=["byte order mark", "chained calls", "brackets", "braces", "branches"],
)
def test_constructs_of_real_programs_are_accepted(program: str) -> None:
    """Editors on Windows write a byte order mark; chains of calls are how tensors are reshaped."""
    require_shallow(parse(program))
    fingerprint(program)


def test_a_fingerprint_takes_time_in_proportion_to_the_text() -> None:
    """Thousands of classes that share their attributes' names made it quadratic."""
    small, large = (
        "".join(f"class A{n}:\n x = 1\n" for n in range(count)) + "y.x\n" * count * 5 for count in (500, 4000)
    )
    seconds = []
    for program in (small, large):
        started = time.process_time()
        fingerprint(program)
        seconds.append(time.process_time() - started)

    assert seconds[1] < 30 * seconds[0]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_are_those_that_the_parser_counts(end: str) -> None:
    """A form feed between two classes is white space, though `str.splitlines` ends a line there."""
    program = end.join(["a = '\u2028 \x85 \x1c'", "\f", "b = 1"])
    last = parse(program).body[-1]

    assert lines_of(program)[last.lineno - 1] == "b = 1"
    assert "".join(lines_of(program)) == program
