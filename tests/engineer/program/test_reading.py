"""What `asi-arch check FILE` says of files that hold no program."""

import os
import socket
from pathlib import Path

import pytest

from services.engineer.scales import ScaleError
from services.engineer.tools import _read


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, Path]:
    """One file of each kind."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "huge.py").write_bytes(b"#" * (300 << 10))
    (tmp_path / "empty.py").write_text("\n")
    (tmp_path / "latin.py").write_bytes(b"x = 1\n# caf\xe9\n")
    with socket.socket(socket.AF_UNIX) as line:
        line.bind(str(tmp_path / "socket"))
    return {path.name: path for path in tmp_path.iterdir()} | {
        "zero": Path("/dev/zero"),
        "folder": tmp_path,
        "missing": tmp_path / "missing.py",
    }


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("fifo", "is a FIFO, device or socket: give a file"),
        ("zero", "is a FIFO, device or socket: give a file"),
        ("folder", "is a folder: give a file"),
        ("socket", "is a FIFO, device or socket: give a file"),
        ("missing", "cannot be read: No such file or directory"),
        ("huge.py", "has more than 262144 bytes"),
        ("empty.py", "is empty: give a file"),
        ("latin.py", "is not text in UTF-8: byte 0xe9 in line 2"),
    ],
)
def test_a_file_that_is_not_a_program_is_refused_with_one_message(
    paths: dict[str, Path], name: str, sentence: str
) -> None:
    """A FIFO would block for ever, a device never end."""
    with pytest.raises(ScaleError, match=sentence):
        _read(paths[name])


def test_a_byte_order_mark_is_not_part_of_the_program(tmp_path: Path) -> None:
    """Editors on Windows write it, and Python itself accepts it in a file."""
    (tmp_path / "program.py").write_bytes(b"\xef\xbb\xbfimport torch\n")

    assert _read(tmp_path / "program.py") == "import torch\n"
