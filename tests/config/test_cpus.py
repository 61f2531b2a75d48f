"""`workers: auto` respects affinity and the cgroup's quota, on cgroups v1 and v2, at any level."""

import os

import pytest

from proxy.config.cpus import usable_cpus


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Return a function that makes a machine of 8 processors with these cgroup files."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))

    def make(cgroup, **files):
        proc, mount = tmp_path / "cgroup", tmp_path / "mount"
        proc.write_text(cgroup)
        for name, text in files.items():
            path = mount / name.replace("__", "/").replace("_DOT_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return usable_cpus(proc=proc, mount=mount)

    return make


def test_without_a_quota_the_affinity_counts(machine):
    assert machine("0::/\n") == 8
    assert machine("0::/\n", cpu_DOT_max="max 100000\n") == 8


@pytest.mark.parametrize("quota,workers", [(200_000, 2), (150_000, 2), (50_000, 1), (1_000, 1), (9_900_000, 8)])
def test_a_v2_quota_is_rounded_up(machine, quota, workers):
    assert machine("0::/\n", cpu_DOT_max=f"{quota} 100000\n") == workers


def test_the_smallest_quota_on_the_way_up_counts(machine):
    files = {"a__b__cpu_DOT_max": "max 100000", "a__cpu_DOT_max": "300000 100000", "cpu_DOT_max": "max 100000"}
    assert machine("0::/a/b\n", **files) == 3


@pytest.mark.parametrize("quota,workers", [("250000", 3), ("-1", 8)])
def test_a_v1_quota(machine, quota, workers):
    files = {
        "cpu,cpuacct__docker__x__cpu_DOT_cfs_quota_us": quota,
        "cpu,cpuacct__docker__x__cpu_DOT_cfs_period_us": "100000",
    }
    assert machine("4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n", **files) == workers


def test_in_a_container_the_mount_is_the_own_group(machine):
    assert machine("0::/kubepods/pod1/abc\n", cpu_DOT_max="100000 100000") == 1


def test_a_machine_without_cgroups(tmp_path):
    assert usable_cpus(proc=tmp_path / "none", mount=tmp_path) == len(os.sched_getaffinity(0))
