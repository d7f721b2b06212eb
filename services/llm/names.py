"""What a run's mind is called: "offline", "openai", "recorded:RUN" or "recorded:RUN@SEQUENCE"."""

OFFLINE = "offline"
OPENAI = "openai"
RECORDED = "recorded:"


def recorded(run: str, until: int | None = None) -> str:
    """The mind that answers from a run's record; up to a sequence of its log, and asks an endpoint from there on."""
    return f"{RECORDED}{run}" if until is None else f"{RECORDED}{run}@{until}"


def record_of(mind: str) -> tuple[str, int | None]:
    """The run whose record a recorded mind answers from, and the last sequence of it that counts; None: all of it.

    Raises ValueError for another name.
    """
    run, at, until = mind.removeprefix(RECORDED).partition("@")
    if not mind.startswith(RECORDED) or not run or (at and not until.isdecimal()):
        raise ValueError(f"mind is {mind!r}; choose offline, openai or recorded:RUN[@SEQUENCE]")
    return run, int(until) if at else None


def asks_endpoint(mind: str) -> bool:
    """Whether the mind of this name may put a question to an endpoint."""
    return mind == OPENAI or (mind.startswith(RECORDED) and "@" in mind)
