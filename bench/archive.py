"""Speed of large archives: a realistic run, then imported records up to the requested number.

    python -m bench.archive                                      # 100,000 candidates in SQLite
    python -m bench.archive --url mongodb://host/bench --candidates 100000
    python -m bench.archive measure --url sqlite:///old.db       # only query an archive that was filled before

All writes use `Archive.apply`: first the run, event by event with the store's answers, then imported records in batches
of 500. The queries run in a separate process.
"""

import argparse
import asyncio
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench.archive_runs import EMBEDDER, RUN, STRUCTURES, Log, embedding, imported, logged, program, start, way
from services.archive.policies import parent_policy
from services.chassis.events import Cause
from services.domain.pool import BEYOND_THE_POOL
from services.domain.structure import fingerprint
from services.store.backends import open_archive
from services.store.backends.indices import Sketched
from services.store.port import Archive, Query
from services.store.reactions import react
from services.store.steering import draw_seeds

BATCH = 500
WAYS = 2_000
WINDOW = 100
QUESTIONS = 100


async def live(archive: Archive, log: Log, ways: int) -> list[float]:
    """Apply a run event by event, and its answers at once; seconds of the archive's work per candidate."""
    await archive.apply([log.write(start(ways))], react)
    seconds: list[float] = []
    while waiting := await archive.outbox():
        for outgoing in waiting:
            events = [outgoing.event, *(way(outgoing.event) if outgoing.event.HasField("candidate_requested") else ())]
            messages = [log.write(event) for event in events]
            started = time.perf_counter()
            for message in messages:
                await archive.apply([message], react)
                await archive.outbox()
            await archive.sent([outgoing.number])
            if len(events) > 1:
                seconds.append(0.0)
            seconds[-1] += time.perf_counter() - started
    return seconds


async def fill(archive: Archive, log: Log, have: int, want: int) -> float:
    """Add records up to the requested number; the rate in events per second."""
    cause, applied, spent = Cause.of(log.messages[0].body), len(log.messages), 0.0
    for low in range(have + 1, want + 1, BATCH):
        messages = [
            logged(applied + offset, imported(cause, number))
            for offset, number in enumerate(range(low, min(low + BATCH, want + 1)), 1)
        ]
        applied += len(messages)
        started = time.perf_counter()
        await archive.apply(messages)
        spent += time.perf_counter() - started
    return (want - have) / spent if spent else 0.0


async def fingerprint_all(archive: Archive) -> None:
    """Store the fingerprints: parsing 100,000 programs takes minutes, and there are few structures here."""
    known = {number: Sketched.of(fingerprint(program(number))) for number in range(STRUCTURES)}
    last = 0
    while page := await archive.programs(RUN, last, 2000):  # type: ignore[attr-defined]
        fingerprints = [(row.sequence, known[int(row.candidate[1:]) % STRUCTURES]) for row in page]
        await archive.save_fingerprints(fingerprints)  # type: ignore[attr-defined]
        last = page[-1].sequence


async def replayed(log: Log, folder: Path) -> float:
    """The rate in events per second at which the run's log is replayed into a new file."""
    archive = open_archive(f"sqlite:///{folder}/replay.db")
    await archive.open()
    started = time.perf_counter()
    for low in range(0, len(log.messages), 256):
        await archive.apply(log.messages[low : low + 256])
    rate = len(log.messages) / (time.perf_counter() - started)
    await archive.close()
    return rate


async def ask(question: Callable[[int], Awaitable[object]]) -> str:
    """Median and 95th percentile of a query's time, after three warm-up queries, and the median of its CPU time."""
    times, cpu = [], []
    for number in range(QUESTIONS + 3):
        started, used = time.perf_counter(), time.process_time()
        await question(number)
        times.append(1000 * (time.perf_counter() - started))
        cpu.append(1000 * (time.process_time() - used))
    ordered = sorted(times[3:])
    median, slow = statistics.median(ordered), ordered[int(0.95 * len(ordered))]
    return f"p50 {median:7.2f} ms   p95 {slow:7.2f} ms   CPU {statistics.median(cpu[3:]):7.2f} ms"


async def measure(url: str) -> None:
    """Open a filled archive and measure queries."""
    started, used = time.perf_counter(), time.process_time()
    archive = open_archive(url)
    await archive.open()
    opened = time.perf_counter() - started
    total = (await archive.list_candidates(Query(RUN, limit=1))).total
    await archive.nearest_motivations(RUN, embedding(7), EMBEDDER, 10, "")
    ready = time.perf_counter() - started
    chance = random.Random(1)
    some = [f"c{chance.randrange(1, total + 1):06d}" for _ in range(QUESTIONS + 3)]

    async def draw(number: int) -> None:
        row = await archive.run(RUN)
        tree = await archive.tree(RUN) if parent_policy(row.settings) in BEYOND_THE_POOL else []
        drawn = draw_seeds(row, tree, some[number])
        assert drawn is not None
        await archive.candidates(RUN, [drawn.parent.id, *(reference.id for reference in drawn.references)])
        await archive.recent_rejections(RUN, 10)
        await archive.moves(RUN, 500)

    print(f"{total} candidates; open {opened:.2f} s, first motivations found after {ready:.2f} s", end=" ")
    print(f"({time.process_time() - used:.2f} s of CPU)")
    print("draw of seeds         ", await ask(draw))
    print("path to the root      ", await ask(lambda number: archive.path(RUN, some[number])))
    print(f"                       of {len(await archive.path(RUN, f'c{total:06d}'))} candidates")
    print("nearest 10 motivations", await ask(
        lambda number: archive.nearest_motivations(RUN, embedding(number * 900), EMBEDDER, 10, some[number])
    ))  # fmt: skip
    started = time.perf_counter()
    await archive.nearest_programs(RUN, program(3), 10, "")
    print(f"first programs found after {time.perf_counter() - started:.2f} s")
    print("nearest 10 programs   ", await ask(lambda number: archive.nearest_programs(RUN, program(number), 10, "")))
    print("list, 100 by fitness  ", await ask(lambda _: archive.list_candidates(Query(RUN))))
    print("list, 100 in the middle", await ask(lambda _: archive.list_candidates(Query(RUN, offset=total // 2))))
    print(f"peak memory of the process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    await archive.close()


async def build(url: str, candidates: int, ways: int, folder: Path) -> None:
    """Fill an archive and print the speed."""
    archive, log = open_archive(url), Log()
    await archive.open()
    if await archive.applied():
        sys.exit(f"{url} is not empty: give an empty one, or query it with `measure`")
    seconds = await live(archive, log, ways)
    for end in (100, 500, 1000, 2000):
        if end <= len(seconds):
            print(f"live, {end:>5} candidates in: {1000 * statistics.mean(seconds[end - WINDOW : end]):.2f} ms each")
    print(
        f"{len(log.messages)} events of {statistics.mean(len(message.body) for message in log.messages) / 1024:.1f} KiB"
    )
    print(f"replay of that run into a fresh file: {await replayed(log, folder):.0f} events/s")
    have = await archive.state_counts(RUN)
    print(f"records in batches of {BATCH}: {await fill(archive, log, sum(have.values()), candidates):.0f} events/s")
    await fingerprint_all(archive)
    await archive.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("all", "measure"), default="all")
    parser.add_argument("--url", help="an empty archive; default: a SQLite file in a temporary folder")
    parser.add_argument("--candidates", type=int, default=100_000)
    parser.add_argument("--ways", type=int, default=WAYS, help="number of candidates that are applied event by event")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        url = chosen.url or f"sqlite:///{folder}/archive.db"
        if chosen.what == "measure":
            asyncio.run(measure(url))
        else:
            asyncio.run(build(url, chosen.candidates, chosen.ways, Path(folder)))
            subprocess.run([sys.executable, "-m", "bench.archive", "measure", "--url", url], check=True)


if __name__ == "__main__":
    main()
