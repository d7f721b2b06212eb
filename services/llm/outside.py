"""One switch that makes any attempt to reach beyond this machine an error: for tests and runs that must not spend."""

from ipaddress import ip_address
from urllib.parse import urlsplit

from services.chassis.errors import SettingsError


class _Switch:
    forbidden = False


_switch = _Switch()


def forbid_outside_calls(forbidden: bool = True) -> None:
    """From now on minds and embedders of this process may only be made for addresses on this machine."""
    _switch.forbidden = forbidden


def check_address(url: str) -> None:
    """Raises SettingsError when outside calls are forbidden and `url` is not on this machine."""
    if _switch.forbidden and not _is_local(urlsplit(url).hostname or ""):
        raise SettingsError(f"calls beyond this machine are forbidden here, and {urlsplit(url).hostname} is not on it.")


def _is_local(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
