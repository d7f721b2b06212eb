"""All probes in the order they run. Imports none of them: the host, which decides, needs no torch."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from services.engineer.checks.report import Finding

if TYPE_CHECKING:
    from services.engineer.checks.subject import Subject


@dataclass(frozen=True)
class Probe:
    """A probe's name, what its violation means, and the probes without whose passing it would blame the wrong thing."""

    name: str
    fatal: bool = True
    after: tuple[str, ...] = ("runs",)

    def load(self) -> "Callable[[Subject], Finding]":
        """The function, from the file of the same name. For the guest."""
        function: Callable[[Subject], Finding] = getattr(
            import_module(f"services.engineer.checks.probes.{self.name}"), self.name
        )
        return function

    def reachable(self, passed: Collection[str]) -> bool:
        """Whether all that it builds on has passed."""
        return all(name in passed for name in self.after)


PROBES: tuple[Probe, ...] = (
    Probe("runs", after=()),
    Probe("parameters"),
    Probe("repeatability"),
    Probe("life"),
    Probe("finiteness"),
    Probe("batch", after=("runs", "repeatability")),
    Probe("causality", after=("runs", "repeatability", "batch")),
    Probe("prefix", after=("runs", "repeatability", "batch", "causality")),
    Probe("cost"),
    Probe("unused", fatal=False, after=("runs", "life")),
    Probe("drift", fatal=False, after=("runs", "repeatability")),
    Probe("checkpoint", fatal=False, after=("runs", "repeatability")),
    Probe("mask", fatal=False, after=("runs", "repeatability")),
    Probe("decoding", fatal=False, after=("runs", "repeatability", "causality", "prefix")),
    Probe("auxiliary", fatal=False),
)


def by_name(name: str) -> Probe:
    """The probe of that name. Raises KeyError for any other."""
    return {probe.name: probe for probe in PROBES}[name]
