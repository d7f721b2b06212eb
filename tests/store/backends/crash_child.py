"""Applies a log to an archive one message at a time and prints each sequence, until somebody kills it."""

import asyncio
import base64
import json
import sys
from pathlib import Path

from services.chassis.bus import Logged
from services.store.backends import open_archive
from services.store.port import ArchiveUnavailable
from services.store.reactions import react


async def main(url: str, messages: list[Logged]) -> None:
    """From wherever the archive stands to the end of the log."""
    archive = open_archive(url)
    await archive.open()
    for message in messages[await archive.applied() :]:
        while True:
            try:
                await archive.apply([message], react)
                break
            except ArchiveUnavailable:  # a transaction of the one that was killed is still open
                await asyncio.sleep(0.2)
        print(message.sequence, flush=True)
    await archive.close()


if __name__ == "__main__":
    lines = json.loads(Path(sys.argv[2]).read_text())
    asyncio.run(main(sys.argv[1], [Logged(number, subject, base64.b64decode(body)) for number, subject, body in lines]))
