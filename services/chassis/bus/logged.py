"""A message of the log, for those who read it from elsewhere than the bus."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Logged:
    """One message of the log as it lies there."""

    sequence: int
    subject: str
    body: bytes
