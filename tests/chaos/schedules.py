"""Schedules of faults, as data. Each fault waits until a share of the run's candidates has ended."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "kill",  # SIGKILL, started again after `seconds`
    "drain",  # SIGTERM, started again when it has ended; every few seconds for `seconds`
    "freeze",  # SIGSTOP for `seconds`
    "delete consumer",  # and leave it to `asi-arch setup`, here the services' own start, to make it anew
    "second store",  # one more store on the same log and archive for `seconds`, then killed
    "garbage",  # no event, a fact of an unknown kind, a forged one and one that is too old, on the log
    "repeat log",  # every message so far once more
    "delete archive",  # its file or database, while the store runs
    "lock archive",  # another process writes to the file for `seconds`
    "full disk",  # the store's process can write to no file for `seconds`, its own log included
    "kill database",  # mongod, started again after `seconds`
    "freeze database",  # mongod, SIGSTOP for `seconds`
    "step down",  # mongod is no primary for `seconds`
    "garble archive",  # its file is replaced by garbage, and given back after `seconds`
    "old archive",  # a copy from `seconds` before takes its place
    "cut log",  # the broker's newest block file loses its end while the broker is down
    "lose log",  # the stream is deleted and made anew
]
Target = Literal[
    "", "broker", "store", "judge", "analyst", "researcher", "engineer-0", "engineer-1", "engineers", "all"
]
SERVICES: tuple[Target, ...] = ("store", "judge", "analyst", "researcher", "engineer-0", "engineer-1")


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong once so large a share of the candidates has ended."""

    after: float
    kind: Kind
    target: Target = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """Faults of one run, and the candidates that deserve to be rejected: SERVICE:CANDIDATE kills it."""

    name: str
    faults: tuple[Fault, ...]
    poison: tuple[str, ...] = ()
    stops: bool = False  # the store stops by name, `asi-arch recover` mends the log, and all goes on
    sqlite_only: bool = False
    mongo_only: bool = False
    training_seconds: float = 0.15

    @property
    def taken(self) -> int:
        """The most trainings that the faults take from engineers, who have three in hand each."""
        engineers = {"engineer-0": 1, "engineer-1": 1, "engineers": 2, "all": 2}
        return 3 * sum(engineers.get(fault.target, 0) for fault in self.faults if fault.kind in ("kill", "freeze"))

    @property
    def guilty(self) -> frozenset[str]:
        """The candidates that must be rejected."""
        return frozenset(entry.partition(":")[2] for entry in self.poison)


KILLS = Schedule(
    "every service is killed, then drained",
    (
        *(Fault(0.1 + 0.1 * index, "kill", target) for index, target in enumerate(SERVICES)),
        Fault(0.75, "drain", "engineers"),
        Fault(0.85, "drain", "store"),
    ),
)
OUTAGES = Schedule(
    "broker and store go away, at once and one by one",
    (
        Fault(0.1, "kill", "broker"),
        Fault(0.3, "kill", "store", 8.0),
        Fault(0.5, "kill", "broker", 8.0),
        Fault(0.7, "kill", "all", 2.0),
    ),
)
LONG = Schedule(
    "the store is away for four minutes, then the broker",
    (Fault(0.2, "kill", "store", 240.0), Fault(0.6, "kill", "broker", 240.0)),
)
ZOMBIES = Schedule(
    "services freeze until others have their work, then go on",
    (
        Fault(0.1, "freeze", "engineer-0", 14.0),
        Fault(0.4, "freeze", "store", 14.0),
        Fault(0.6, "freeze", "broker", 6.0),
        Fault(0.7, "freeze", "judge", 14.0),
    ),
)
MINUTES = Schedule(
    "each service, then the broker, freezes for a minute",
    (
        Fault(0.05, "freeze", "researcher", 60.0),
        Fault(0.2, "freeze", "analyst", 60.0),
        Fault(0.35, "freeze", "judge", 60.0),
        Fault(0.5, "freeze", "store", 60.0),
        Fault(0.65, "freeze", "engineer-0", 60.0),
        Fault(0.8, "freeze", "broker", 60.0),
    ),
)
BROKER = Schedule(
    "durables are made anew, the log repeats itself and holds garbage",
    (
        Fault(0.1, "garbage"),
        Fault(0.2, "delete consumer", "engineers"),
        Fault(0.3, "repeat log"),
        Fault(0.4, "delete consumer", "store"),
        Fault(0.5, "garbage"),
        Fault(0.6, "delete consumer", "judge"),
        Fault(0.7, "kill", "broker"),
    ),
)
DRAINS = Schedule(
    "engineers are drained before any of them can end a training",
    (Fault(0.2, "drain", "engineers", 90.0),),
    training_seconds=12.0,
)
STORES = Schedule(
    "two stores apply at once, one of them freezes",
    (
        Fault(0.1, "second store", seconds=20.0),
        Fault(0.3, "freeze", "store", 14.0),
        Fault(0.5, "second store", seconds=5.0),
        Fault(0.5, "kill", "store"),
        Fault(0.7, "repeat log"),
    ),
)
ARCHIVE = Schedule(
    "the archive is deleted, replaced by an old copy, and by garbage",
    (
        Fault(0.2, "delete archive"),
        Fault(0.4, "old archive", seconds=2.0),
        Fault(0.5, "garble archive", seconds=4.0),
        Fault(0.6, "kill", "store"),
    ),
    sqlite_only=True,
)
FULL = Schedule(
    "the archive is locked, its disk is full",
    (
        Fault(0.2, "full disk", seconds=15.0),
        Fault(0.4, "lock archive", seconds=12.0),
        Fault(0.6, "full disk", seconds=3.0),
        Fault(0.6, "drain", "store"),
    ),
    sqlite_only=True,
)
DATABASE = Schedule(
    "the database is killed, freezes, steps down and is dropped",
    (
        *(Fault(0.1 + 0.03 * index, "step down", seconds=2.0) for index in range(3)),
        Fault(0.2, "kill database", seconds=5.0),
        Fault(0.4, "freeze database", seconds=15.0),
        Fault(0.6, "delete archive"),
        Fault(0.8, "kill database"),
        Fault(0.8, "kill", "store"),
    ),
    mongo_only=True,
)
LOST = Schedule("the stream is deleted and made anew", (Fault(0.4, "lose log"),), stops=True)
CUT = Schedule("the end of the log is cut off", (Fault(0.4, "cut log"),), stops=True)
POISON = Schedule(
    "programs and messages that kill their process",
    (Fault(0.3, "kill", "store"),),
    poison=("engineer:c000009", "researcher:c000014"),
)
MIXED = Schedule(
    "a little of everything",
    (
        Fault(0.1, "kill", "engineer-0"),
        Fault(0.2, "kill", "broker", 3.0),
        Fault(0.3, "garbage"),
        Fault(0.35, "kill", "store", 4.0),
        Fault(0.5, "drain", "engineers"),
        Fault(0.6, "repeat log"),
        Fault(0.7, "delete consumer", "engineers"),
        Fault(0.8, "kill", "all"),
    ),
)
LEADERS = Schedule(
    "the broker is killed again and again",
    (
        Fault(0.15, "kill", "broker", 2.0),
        Fault(0.4, "kill", "broker", 2.0),
        Fault(0.5, "kill", "store"),
        Fault(0.7, "kill", "broker", 2.0),
    ),
)
QUIET = Schedule("nothing fails", ())
ALL = (
    LEADERS,
    MIXED,
    KILLS,
    OUTAGES,
    LONG,
    ZOMBIES,
    MINUTES,
    DRAINS,
    STORES,
    BROKER,
    ARCHIVE,
    FULL,
    DATABASE,
    LOST,
    CUT,
    POISON,
)
_RANDOM: tuple[tuple[Kind, tuple[Target, ...], float], ...] = (
    ("kill", (*SERVICES, "broker", "all"), 5.0),
    ("drain", (*SERVICES, "engineers"), 0.0),
    ("freeze", (*SERVICES, "broker"), 12.0),
    ("delete consumer", ("engineers", "store", "judge", "analyst", "researcher"), 0.0),
    ("garbage", ("",), 0.0),
    ("repeat log", ("",), 0.0),
    ("second store", ("",), 12.0),
)
_OF_FILES: tuple[tuple[Kind, tuple[Target, ...], float], ...] = (
    ("old archive", ("",), 4.0),
    ("garble archive", ("",), 4.0),
    ("delete archive", ("",), 0.0),
    ("lock archive", ("",), 10.0),
    ("full disk", ("",), 10.0),
)
_OF_DATABASES: tuple[tuple[Kind, tuple[Target, ...], float], ...] = (
    ("kill database", ("",), 6.0),
    ("freeze database", ("",), 12.0),
    ("step down", ("",), 4.0),
    ("delete archive", ("",), 0.0),
)


def drawn(seed: int, backend: Literal["sqlite", "mongo"]) -> Schedule:
    """A random schedule, determined by seed and backend."""
    rng = random.Random(seed)
    faults = []
    for _ in range(rng.randint(4, 9)):
        kind, targets, max_seconds = rng.choice((*_RANDOM, *(_OF_FILES if backend == "sqlite" else _OF_DATABASES)))
        faults.append(
            Fault(rng.uniform(0.05, 0.9), kind, rng.choice(targets), rng.choice((0.0, rng.uniform(0, max_seconds))))
        )
    in_order = tuple(sorted(faults, key=lambda fault: fault.after))
    return Schedule(f"drawn from seed {seed}", in_order)
