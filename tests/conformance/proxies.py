"""Tidegate and its peers as reverse proxies of one recording backend: configurations, start and end."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

from tests.conformance.wire import Recorder
from tests.ports import held_port

ROOT = Path(__file__).parents[2]
PEERS = ("nginx", "haproxy", "envoy", "caddy")


def program(name: str) -> str:
    """Return where a peer's program is, "" if it is not there; `CADDY` and the like name one that is not on PATH."""
    beside = Path(sysconfig.get_path("scripts")) / name
    return os.environ.get(name.upper(), "") or (str(beside) if beside.exists() else shutil.which(name) or "")


def _tidegate(folder: Path, port: int, backend: int, *, trusted: bool = False) -> list[str]:
    config = folder / "tidegate.yaml"
    config.write_text(f"""
listen: 127.0.0.1:{port}
workers: 1
state: none
admin: {{listen: "unix:{folder}/admin.sock"}}
trusted_proxies: {["127.0.0.1"] if trusted else []}
services:
  - name: web
    stable: {{endpoints: ["http://127.0.0.1:{backend}"]}}
    new: {{endpoints: ["http://127.0.0.1:{backend}"]}}
    split: {{new: 0%, sticky: {{by: client_ip}}}}
    expose_version: false
    timeouts: {{connect: 10s}}
""")
    return [sys.executable, "-m", "proxy", "run", "--config", str(config)]


def _nginx(folder: Path, port: int, backend: int) -> list[str]:
    temporary = "\n".join(f"{k}_temp_path {folder}/{k};" for k in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    user = "user root;" if os.geteuid() == 0 else ""
    config = folder / "nginx.conf"
    config.write_text(f"""
daemon off; {user} worker_processes 1; pid {folder}/nginx.pid; error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
  access_log off; {temporary}
  map $http_upgrade $hop {{ default upgrade; "" ""; }}
  upstream backend {{ server 127.0.0.1:{backend}; keepalive 16; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://backend; proxy_http_version 1.1; proxy_request_buffering off; proxy_buffering off;
      proxy_set_header Connection $hop; proxy_set_header Upgrade $http_upgrade; proxy_set_header Host $http_host;
      proxy_next_upstream off;
    }}
  }}
}}
""")
    return [program("nginx"), "-p", str(folder), "-c", str(config)]


def _haproxy(folder: Path, port: int, backend: int) -> list[str]:
    config = folder / "haproxy.cfg"
    config.write_text(f"""
global
  nbthread 1
defaults
  mode http
  timeout connect 2s
  timeout client 20s
  timeout server 20s
  option forwardfor
frontend main
  bind 127.0.0.1:{port}
  default_backend all
backend all
  server one 127.0.0.1:{backend}
""")
    return [program("haproxy"), "-f", str(config), "-q"]


def _envoy(folder: Path, port: int, backend: int) -> list[str]:
    kind = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{kind}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "main",
        "use_remote_address": True,
        "http_protocol_options": {"accept_http_10": True, "enable_trailers": True},
        "upgrade_configs": [{"upgrade_type": "websocket"}, {"upgrade_type": "x"}],
        "route_config": {
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "all"}}]}
            ]
        },
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{kind}.http.router.v3.Router"}}
        ],
    }
    options = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    cluster = {
        "name": "all",
        "connect_timeout": "1s",
        "type": "STATIC",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": options,
                "explicit_http_config": {"http_protocol_options": {"enable_trailers": True}},
            }
        },
        "load_assignment": {
            "cluster_name": "all",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(backend)}}]}],
        },
    }
    listener = {
        "name": "main",
        "address": _address(port),
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    config = folder / "envoy.json"
    config.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}}))
    return [
        program("envoy"),
        "-c",
        str(config),
        "--concurrency",
        "1",
        "--disable-hot-restart",
        "--log-level",
        "critical",
    ]


def _address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _caddy(folder: Path, port: int, backend: int) -> list[str]:
    config = folder / "Caddyfile"
    config.write_text(
        f"{{\n admin off\n persist_config off\n auto_https off\n log {{\n  level ERROR\n }}\n}}\n"
        f"http://:{port} {{\n bind 127.0.0.1\n reverse_proxy 127.0.0.1:{backend} {{\n  flush_interval -1\n }}\n}}\n"
    )
    return [program("caddy"), "run", "--config", str(config), "--adapter", "caddyfile"]


_COMMANDS = {"tidegate": _tidegate, "nginx": _nginx, "haproxy": _haproxy, "envoy": _envoy, "caddy": _caddy}


@contextlib.contextmanager
def started(name: str, folder: Path, recorder: Recorder, **options: bool) -> Iterator[int]:
    """Run a proxy before the recorder while the block lasts; yields its port."""
    held = held_port()
    port = held.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    command = _COMMANDS[name](folder, port, recorder.port, **options)
    environ = {**os.environ, "HOME": str(folder), "XDG_DATA_HOME": str(folder), "PYTHONPATH": str(ROOT)}
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, cwd=folder, env=environ, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_for(port, process, folder / "log")
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.send_signal(signal.SIGTERM)
            process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        held.close()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    limit = time.monotonic() + 120
    while time.monotonic() < limit:
        if process.poll() is not None:
            raise RuntimeError(log.read_text())
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"not listening: {log.read_text()}")
