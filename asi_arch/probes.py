"""Types for probes (entry points asi_arch.probes): the program under test, and a finding."""

from services.engineer.checks.host import AddedProbe, Probe
from services.engineer.checks.remote import Remote, State
from services.engineer.checks.report import Finding

__all__ = ["AddedProbe", "Finding", "Probe", "Remote", "State"]
