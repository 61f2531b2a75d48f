"""TLS towards the admin API: whom to trust, and whether the other end speaks it at all.

Whoever writes https:// for an admin API without TLS sees a handshake that fails for no reason, so it is asked without,
once and briefly, before anything is said about it. The other way round the admin API answers what is wrong.
"""

from __future__ import annotations

import contextlib
import ssl
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from proxy.errors import TidegateError
from proxy.tls import client_context

LOOK_S = 2.0


class WrongCa(TidegateError):
    """The file of `--ca` cannot be used."""

    exit_code = 2


def trust(ca: Path | None) -> ssl.SSLContext:
    """Return the context that trusts the certificates in a file, or the system's; raise `WrongCa`."""
    try:
        if ca is not None:
            ca.open("rb").close()
        return client_context(ca=None if ca is None else str(ca))
    except ssl.SSLError:
        cure = "give a PEM file with -----BEGIN CERTIFICATE-----"
        raise WrongCa("the file of --ca holds no certificate that can be read", where=str(ca), cure=cure) from None
    except OSError as error:
        why = (error.strerror or "unknown").lower()
        cure = "give --ca or TIDEGATE_ADMIN_CA the path of a PEM file"
        raise WrongCa(f"the file of --ca cannot be read: {why}", where=str(ca), cure=cure) from None


def speaks_http(host: str, port: int) -> bool:
    """Tell whether plain HTTP is answered there, with whatever."""
    connection = HTTPConnection(host, port, timeout=LOOK_S)
    with contextlib.closing(connection), contextlib.suppress(OSError, HTTPException):
        connection.request("GET", "/livez")
        connection.getresponse()
        return True
    return False
