"""A simulated loss of power: writes without a sync are lost, which kill -9 alone does not do.

The process runs under strace, which writes down each of its writes and syncs. From that the files are made as a disk
would hold them that kept nothing but what was synced: the content of a file is that of its last completed fsync or
fdatasync, or of each write where it was opened with O_SYNC. Names (created, renamed, removed) count as kept at once, as
a journalling file system keeps them in order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CALLS = "openat,write,pwrite64,fsync,fdatasync,ftruncate,rename,renameat,renameat2,unlink,unlinkat,lseek"
_CALL = re.compile(r"^(\d+) +(\w+)\((.*)\) += (-?\d+)")
_UNFINISHED = re.compile(r"^(\d+) +(\w+)\((.*) <unfinished \.\.\.>$")
_RESUMED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>(.*)$")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_FILE = re.compile(r"^(\d+)<((?:\\x[0-9a-f]{2})*)>")


def watched(command: Sequence[str], trace: Path) -> list[str]:
    """The command, so that all it does to files is written to `trace`."""
    return ["strace", "-f", "-qq", "-y", "-xx", "-s", "1000000", "-e", f"trace={CALLS}", "-o", str(trace), *command]


def after_power_loss(trace: Path, folder: Path, target: Path) -> None:
    """Write the files below `folder`, as they were on disk when the trace ended, to `target`."""
    disk = _Disk()
    for name, arguments, result in _calls(trace):
        if result >= 0:
            disk.apply(name, arguments, result)
    for path, content in disk.kept.items():
        if path.is_relative_to(folder):
            file = target / path.relative_to(folder)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)


def _calls(trace: Path) -> Iterator[tuple[str, str, int]]:
    unfinished_calls: dict[tuple[str, str], str] = {}
    for line in trace.read_text().splitlines():
        if unfinished := _UNFINISHED.match(line):
            unfinished_calls[unfinished[1], unfinished[2]] = unfinished[3]
            continue
        if resumed := _RESUMED.match(line):
            line = f"{resumed[1]} {resumed[2]}({unfinished_calls.pop((resumed[1], resumed[2]), '')}{resumed[3]}"
        if call := _CALL.match(line):
            yield call[2], call[3], int(call[4])


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


@dataclass
class _Open:
    path: Path
    synced: bool
    appends: bool
    offset: int = 0


class _Disk:
    """Files as the process sees them, and as the disk keeps them."""

    def __init__(self) -> None:
        self.seen: dict[Path, bytearray] = {}
        self.kept: dict[Path, bytes] = {}
        self._open: dict[int, _Open] = {}

    def apply(self, name: str, arguments: str, result: int) -> None:
        """One system call that succeeded."""
        texts = [_bytes(text) for text in _TEXT.findall(arguments)]
        if name == "openat":
            self._opened(Path(texts[0].decode()), arguments, result)
        elif name in ("rename", "renameat", "renameat2"):
            old, new = (Path(text.decode()) for text in texts[:2])
            if old in self.seen:
                self.seen[new], self.kept[new] = self.seen.pop(old), self.kept.pop(old)
        elif name in ("unlink", "unlinkat"):
            self.seen.pop(Path(texts[0].decode()), None)
            self.kept.pop(Path(texts[0].decode()), None)
        elif (file := _FILE.match(arguments)) and (path := Path(_bytes(file[2]).decode())) in self.seen:
            self._changed(name, self._open.get(int(file[1])), path, arguments, texts, result)

    def _opened(self, path: Path, arguments: str, number: int) -> None:
        if "O_CREAT" in arguments and path not in self.seen:
            self.seen[path], self.kept[path] = bytearray(), b""
        if "O_TRUNC" in arguments and path in self.seen:
            self.seen[path] = bytearray()
        self._open[number] = _Open(path, "O_SYNC" in arguments or "O_DSYNC" in arguments, "O_APPEND" in arguments)

    def _changed(
        self, name: str, file: _Open | None, path: Path, arguments: str, texts: list[bytes], result: int
    ) -> None:
        content = self.seen[path]
        number = arguments.rpartition(", ")[2]
        if name in ("fsync", "fdatasync"):
            self.kept[path] = bytes(content)
        elif name == "ftruncate":
            size = int(number)
            content[size:] = b"\0" * max(0, size - len(content))
        elif name == "lseek" and file is not None:
            file.offset = result
        elif name == "pwrite64":
            _write(content, int(number), texts[-1][:result])
        elif name == "write" and file is not None:
            offset = len(content) if file.appends else file.offset
            _write(content, offset, texts[-1][:result])
            file.offset = offset + result
        if file is not None and file.synced and "write" in name:
            self.kept[path] = bytes(content)


def _write(content: bytearray, offset: int, new: bytes) -> None:
    if len(content) < offset:
        content.extend(b"\0" * (offset - len(content)))
    content[offset : offset + len(new)] = new
