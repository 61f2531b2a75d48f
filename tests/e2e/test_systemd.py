"""The units as systemd reads them, without starting anything."""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

from proxy.config.model import DrainConfig

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"


@pytest.mark.e2e
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
def test_systemd_finds_nothing_wrong(tmp_path):
    for unit in UNITS.iterdir():
        text = unit.read_text().replace("/opt/tidegate/bin/tidegate", "/bin/true")  # it must be there to be right
        (tmp_path / unit.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", *sorted(str(path) for path in tmp_path.iterdir())],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_stop_leaves_time_for_the_drain():
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read_string((UNITS / "tidegate.service").read_text())
    service, drain = unit["Service"], DrainConfig()
    assert float(service["TimeoutStopSec"].removesuffix("s")) > drain.delay + drain.timeout + 2
    assert (service["Type"], service["KillMode"]) == ("notify", "process")


def test_what_a_config_writes_has_a_directory_that_can_be_written():
    unit = (UNITS / "tidegate.service").read_text()
    assert "ProtectSystem=strict\n" in unit
    for kind, path in (("State", "/var/lib"), ("Logs", "/var/log"), ("Runtime", "/run")):
        assert f"\n{kind}Directory=tidegate\n" in unit
        assert f"{path}/tidegate/" in unit  # the comment says which key lies there
