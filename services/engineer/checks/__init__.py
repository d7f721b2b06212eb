"""The check: may this program be trained? A static screen, then probes in the sandbox.

`host.check` is the way in. It is not imported here, because the guest imports this package too.
"""

from services.engineer.checks.report import CheckReport, CheckSettings, CheckSettingsError, Finding, Verdict

__all__ = ["CheckReport", "CheckSettings", "CheckSettingsError", "Finding", "Verdict"]
