"""The files of a new deployment, and what an upgrade preserves."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.make_env import write
from services.chassis.bus.access import USERS, public_key, seed_variable
from services.chassis.errors import SettingsError

ROOT = Path(__file__).parents[2]


def seeds(folder: Path) -> dict[str, str]:
    """What the environment file says."""
    return dict(line.split("=", 1) for line in (folder / ".env").read_text().splitlines() if line)


def test_every_user_gets_a_secret_and_the_server_only_public_keys(tmp_path: Path) -> None:
    """The configuration may be read by anybody, the seeds by their owner."""
    write(tmp_path, tls=False)
    config = (tmp_path / "nats.conf").read_text()

    assert seeds(tmp_path).keys() == {seed_variable(user) for user in USERS}
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    assert set(re.findall(r"nkey: (\w+)", config)) == {public_key(seed) for seed in seeds(tmp_path).values()}
    assert not [seed for seed in seeds(tmp_path).values() if seed in config]


def test_a_second_call_keeps_seeds_and_updates_rights(tmp_path: Path) -> None:
    """An upgrade adds facts and users; it must not lock out what runs."""
    write(tmp_path, tls=False)
    before, path = seeds(tmp_path), tmp_path / ".env"
    path.write_text("IMAGE_TAG=v2" + "".join(f"\n{name}={seed}" for name, seed in before.items() if name[0] != "J"))
    (tmp_path / "nats.conf").write_text("an older version's")
    write(tmp_path, tls=True)
    after = seeds(tmp_path)

    assert after.pop("IMAGE_TAG") == "v2"
    assert after.pop(seed_variable("judge")) != before.pop(seed_variable("judge"))
    assert after == before
    assert "candidate.judged" in (tmp_path / "nats.conf").read_text()
    assert "handshake_first" in (tmp_path / "nats.conf").read_text()


def test_an_invalid_seed_is_refused_with_one_message(tmp_path: Path) -> None:
    """Not a server that refuses everybody."""
    (tmp_path / ".env").write_text(f"{seed_variable('judge')}=changeme\n")

    with pytest.raises(SettingsError, match="nkey seed"):
        write(tmp_path, tls=False)


def test_a_server_without_a_container_has_folders_of_its_own(tmp_path: Path) -> None:
    """A second call with the same options is an upgrade, which nobody has to edit."""
    make = [sys.executable, str(ROOT / "deploy" / "make_env.py"), "--tls", "--folder", str(tmp_path / "new")]
    subprocess.run([*make, "--data", "/srv/nats", "--certificates", "/etc/asi/hub"], check=True)
    config = (tmp_path / "new" / "nats.conf").read_text()

    assert 'store_dir: "/srv/nats"' in config
    assert [f'"/etc/asi/hub/{name}"' in config for name in ("tls.crt", "tls.key", "ca.crt")] == [True] * 3
    assert (tmp_path / "new" / ".env").stat().st_mode & 0o777 == 0o600


def test_a_certificate_is_for_a_host_or_an_address(tmp_path: Path) -> None:
    """Machines without names have certificates, too."""
    for name, kind in (("gpu1.example.org", "DNS:"), ("10.0.0.7", "IP Address:"), ("2001:db8::7", "IP Address:")):
        subprocess.run([ROOT / "deploy" / "make_certificates.sh", tmp_path, name], check=True)
        show = ["openssl", "x509", "-in", str(tmp_path / name / "tls.crt"), "-noout", "-ext", "subjectAltName"]
        shown = subprocess.run(show, check=True, capture_output=True, text=True).stdout

        assert shown.split("\n")[1].strip().startswith(kind)
