"""Names of endpoints that do not resolve where the config is checked.

It is no mistake: the name may exist only where the proxy will run, or only later. So `check` warns, and nothing else
asks: a reload must not wait for a resolver.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator

from proxy.routing.table import RoutingTable

PATIENCE_S = 2.0


def _ask_the_system(name: str) -> object:
    return socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM)  # of both families


def unresolved(
    table: RoutingTable, resolve: Callable[[str], object] = _ask_the_system, patience_s: float = PATIENCE_S
) -> Iterator[str]:
    """Yield a warning for every endpoint's name that `resolve` raises `OSError` for, or has not found in time."""
    names = dict.fromkeys(endpoint.host for *_, endpoint in table.endpoints() if endpoint.named)
    for name, why in _failures(names, resolve, patience_s).items():
        until = "requests to it get 502 until it does"
        yield f"warning: the endpoint {name} does not resolve here ({why}): {until}"


def _failures(names: Iterable[str], resolve: Callable[[str], object], patience_s: float) -> dict[str, str]:
    why = dict.fromkeys(names, "no answer in time")

    def look_up(name: str) -> None:
        try:
            resolve(name)
        except (OSError, UnicodeError) as error:
            why[name] = (getattr(error, "strerror", "") or str(error)).lower()
        else:
            del why[name]

    # Threads of their own, that nobody waits for at the end: a look-up cannot be broken off.
    threads = [threading.Thread(target=look_up, args=(name,), daemon=True) for name in why]
    for thread in threads:
        thread.start()
    until = time.monotonic() + patience_s
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    return dict(why)
