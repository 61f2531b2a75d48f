"""What `check` says about endpoints that are names."""

from __future__ import annotations

import socket
import threading

from proxy.config.names import unresolved
from proxy.routing.table import Endpoint, RoutingTable, Service, Version


def table(*hosts):
    endpoints = tuple(Endpoint(f"http://{host}:80", host, 80) for host in hosts)
    unix = Endpoint("unix:/x", "localhost", 80, "/x")
    return RoutingTable((Service("web", Version("", endpoints), Version("", (unix, *endpoints))),))


def resolve(name):
    if name == "here":
        return "127.0.0.1"
    raise socket.gaierror(-2, "Name or service not known")


def test_names_that_do_not_resolve_are_said_once():
    (warning,) = unresolved(table("here", "gone", "127.0.0.1", "::1"), resolve)
    assert warning.startswith("warning: the endpoint gone does not resolve here (name or service not known): ")


def test_a_resolver_that_hangs_holds_nobody_up():
    release = threading.Event()
    (warning,) = unresolved(table("slow"), lambda _: release.wait(30), patience_s=0.05)
    assert "slow does not resolve here (no answer in time)" in warning
    release.set()
