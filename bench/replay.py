"""Speed of a replay, relative to a bare ordered consumer that reads and decodes the same log.

    python -m bench.replay [--ways 300] [--rounds 7] [--into sqlite|mongodb://…]

A real nats-server contains a complete run. All are timed in turn, and the median of the ratios is printed, since it
depends less on load than the times. The limit is 0.5.

There are two bare consumers: that of nats-py's documentation, `await subscription.next_msg()` on asyncio's loop, and a
faster one, a callback on uvloop.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import nats
from nats.aio.msg import Msg
from nats.js import api

from bench.archive_runs import RUN, Log, start, way
from services.chassis.bus import Bus
from services.chassis.bus.subjects import subject_of
from services.chassis.service import run_on_uvloop
from services.chassis.settings import ServiceSettings
from services.contracts import events_pb2
from services.local.processes import Broker
from services.store.backends import open_archive
from services.store.reactions import react
from services.store.replay import replay


async def write_log(bus: Bus, folder: Path, ways: int) -> int:
    """Publish a run's log, made by the real rules; returns the number of events."""
    archive, log = open_archive(f"sqlite:///{folder}/live.db"), Log()
    await archive.open()
    await archive.apply([log.write(start(ways))], react)
    while waiting := await archive.outbox():
        for outgoing in waiting:
            events = [outgoing.event, *(way(outgoing.event) if outgoing.event.HasField("candidate_requested") else ())]
            await archive.apply([log.write(event) for event in events], react)
        await archive.sent([outgoing.number for outgoing in waiting])
    await archive.close()
    for message in log.messages:
        event = events_pb2.Event.FromString(message.body)
        await bus.publish_body(subject_of(event), f"{event.id}-{message.sequence}", message.body)
    return len(log.messages)


async def plain(url: str, events: int) -> float:
    """Seconds in which nats-py's ordered consumer reads and decodes the whole log, one message after the other."""
    client = await nats.connect(url)
    started = time.perf_counter()
    subscription = await client.jetstream().subscribe(
        f"asi.v1.{RUN}.>", stream="EVENTS", ordered_consumer=True,
        config=api.ConsumerConfig(deliver_policy=api.DeliverPolicy.ALL),
    )  # fmt: skip
    for _ in range(events):
        events_pb2.Event.FromString((await subscription.next_msg(timeout=10)).data)
    seconds = time.perf_counter() - started
    await client.close()
    return seconds


async def bare(url: str, events: int) -> float:
    """As `plain`, with a callback and without limits on pending messages: twice as fast on uvloop."""
    client = await nats.connect(url)
    done, count = asyncio.get_running_loop().create_future(), 0

    async def take(message: Msg) -> None:
        nonlocal count
        events_pb2.Event.FromString(message.data)
        count += 1
        if count == events:
            done.set_result(None)

    started = time.perf_counter()
    await client.jetstream().subscribe(
        f"asi.v1.{RUN}.>", stream="EVENTS", ordered_consumer=True, cb=take,
        config=api.ConsumerConfig(deliver_policy=api.DeliverPolicy.ALL),
        pending_msgs_limit=-1, pending_bytes_limit=-1,
    )  # fmt: skip
    await done
    seconds = time.perf_counter() - started
    await client.close()
    return seconds


async def rebuilt(settings: ServiceSettings, into: str) -> float:
    """Seconds of a replay, including its digest."""
    archive = open_archive(into) if into else None
    if archive is not None:
        await archive.open()
    async with Bus(settings, "replay") as bus:
        seconds = (await replay(bus, RUN, archive, None)).seconds
    if archive is not None:
        await archive.close()
    return seconds


async def measure(ways: int, rounds: int, into: str) -> None:
    """Print rates and the median of their ratios."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        broker = Broker(folder / "nats")
        broker.start()
        settings, ratios = ServiceSettings(nats_url=broker.url), list[tuple[float, float]]()
        try:
            async with Bus(settings, "bench") as bus:
                await bus.set_up()
                events = await write_log(bus, folder, ways)
            for number in range(rounds):
                url = f"sqlite:///{folder}/replay-{number}.db" if into == "sqlite" else into and f"{into}_{number}"
                slow = await asyncio.to_thread(asyncio.run, plain(broker.url, events))
                fast, replayed = await bare(broker.url, events), await rebuilt(settings, url)
                ratios.append((slow / replayed, fast / replayed))
                rates = [f"{events / seconds:.0f}" for seconds in (slow, fast, replayed)]
                print(f"events/s: plain {rates[0]}, fastest {rates[1]}, replay {rates[2]}")
        finally:
            broker.stop()
    plainly, fastest = (statistics.median(ratio) for ratio in zip(*ratios, strict=True))
    print(f"{events} events; median ratio to the plain consumer {plainly:.2f}, to the fastest {fastest:.2f}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--into", default="", help="sqlite or a MongoDB address; default: memory")
    chosen = parser.parse_args()
    run_on_uvloop(measure(chosen.ways, chosen.rounds, chosen.into))


if __name__ == "__main__":
    main()
