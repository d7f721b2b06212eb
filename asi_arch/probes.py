"""What a probe of one's own needs (entry points asi_arch.probes): a program to ask, and a finding."""

from services.engineer.checks.host import AddedProbe, Probe
from services.engineer.checks.remote import Remote, State
from services.engineer.checks.report import Finding

__all__ = ["AddedProbe", "Finding", "Probe", "Remote", "State"]
