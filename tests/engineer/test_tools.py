"""The text that `asi-arch train` prints."""

from services.engineer.tools import _failure_text, _log_of_program


def test_of_a_traceback_only_the_frames_of_the_program_are_shown() -> None:
    """The others are the engineer's own; what the program printed before is kept."""
    own = '  File "<candidate_1f>", line 8, in forward\n    x / 0\nZeroDivisionError: division by zero\n'
    outer = 'Traceback (most recent call last):\n  File "/srv/services/engineer/training/child.py", line 147, in run\n'

    assert _log_of_program(f"hello\n{outer}{own}") == f"hello\n{own}"
    assert _log_of_program(f"hello\n{outer}MemoryError\n") == "hello\nMemoryError\n"
    assert _log_of_program("hello\n") == "hello\n"
    assert _log_of_program("y" * 10_000) == "y" * 300 + "\n"


def test_a_program_that_fails_in_training_is_referred_to_the_check() -> None:
    """Only the check explains common errors and tries the other precision."""
    assert "--scale mini tells what to change" in _failure_text("error", "KeyError: 'x'", "", "mini")
    assert "check" not in _failure_text("timeout", "No answer within 300 s.", "", "mini")
