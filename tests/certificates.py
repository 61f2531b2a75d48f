"""Certificates for tests, as the files that a config names."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

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
