"""Certificates for tests, as the files that a config names."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import trustme

from proxy.config.compile import CertificateFiles


def issue(
    authority: trustme.CA, folder: Path, *names: str, until: datetime | None = None, name: str = ""
) -> CertificateFiles:
    """Write a certificate for `names` and its key below `folder`; it runs out `until` then."""
    issued = authority.issue_cert(*names, not_before=datetime(2000, 1, 1, tzinfo=UTC), not_after=until)
    files = CertificateFiles(folder / f"{name}cert.pem", folder / f"{name}key.pem")
    files.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(files.key))
    return files


def ca_file(authority: trustme.CA, folder: Path) -> Path:
    """Write the certificate of who signs."""
    path = folder / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


def shown(server: ssl.SSLContext, authority: trustme.CA, name: str | None, *, checked: bool = True) -> dict[str, Any]:
    """Shake hands in memory; return what is shown to a client that asks for `name`, `checked` to be for it."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = checked
    authority.configure_trust(client)
    to, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(back, to, server_hostname=name), server.wrap_bio(to, back, server_side=True)]
    for _ in range(3):
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
    found = ends[0].getpeercert()
    assert found
    return found
