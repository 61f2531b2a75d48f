"""TLS 1.3 records written by hand, behind a handshake that Python's `ssl` has made: it can send none without data.

`keyed` makes a context write its secrets to a file; `Writer` takes a direction's secret from there and writes on where
the handshake ended. Nothing may have been written through `ssl` in that direction before.

Source: RFC 8446 §5.2 (records), §7.1 to §7.3 (keys), §4.6.3 (KeyUpdate).
"""

from __future__ import annotations

import ssl
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

DATA, HANDSHAKE = 23, 22
CLIENT, SERVER = "CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"
_SUITES = {
    "TLS_AES_256_GCM_SHA384": (hashes.SHA384, 32, AESGCM),
    "TLS_AES_128_GCM_SHA256": (hashes.SHA256, 16, AESGCM),
    "TLS_CHACHA20_POLY1305_SHA256": (hashes.SHA256, 32, ChaCha20Poly1305),
}


def keyed(context: ssl.SSLContext, folder: Path) -> Path:
    """Make a context use TLS 1.3 alone and write its secrets down; return the file."""
    path = folder / "secrets.txt"
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.keylog_filename = str(path)
    return path


class Writer:
    """What one side of the connection that shook hands last sends from here on."""

    def __init__(self, secrets: Path, side: str, cipher: str) -> None:
        lines = [line.split() for line in secrets.read_text().splitlines()]
        self._hash, self._size, self._aead = _SUITES[cipher]
        self._take([bytes.fromhex(line[2]) for line in lines if line[0] == side][-1])

    def _take(self, secret: bytes) -> None:
        self._secret = secret
        self._sealed = self._aead(self._expand("key", self._size))
        self._iv = int.from_bytes(self._expand("iv", 12), "big")
        self._number = 0

    def _expand(self, name: str, size: int) -> bytes:
        label = b"tls13 " + name.encode()
        info = size.to_bytes(2, "big") + bytes([len(label)]) + label + b"\0"
        return HKDFExpand(self._hash(), size, info).derive(self._secret)

    def record(self, content: bytes, kind: int = DATA) -> bytes:
        """Return one record."""
        inner = content + bytes([kind])
        head = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2, "big")
        nonce = (self._iv ^ self._number).to_bytes(12, "big")
        self._number += 1
        return head + self._sealed.encrypt(nonce, inner, head)

    def key_update(self, *, asks: bool) -> bytes:
        """Return a KeyUpdate, after which new keys are in force; it may ask for one of the other side's."""
        record = self.record(b"\x18\0\0\x01" + bytes([asks]), HANDSHAKE)
        self._take(self._expand("traffic upd", self._hash.digest_size))
        return record
