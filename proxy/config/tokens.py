"""Tokens of the admin API: the files that hold them, and how safe they are where other machines can try them.

Files are read whenever the config is compiled, so a reload picks up a rotated token. Nothing of a token is ever shown.
Whoever comes with a secret that two tokens have is the first of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from proxy.config.addresses import is_local, parse_listen
from proxy.config.load import Document
from proxy.config.looking import good, mapping, mappings
from proxy.config.wrong import WrongValue

LEAST = 16  # characters; of hexadecimal digits these are 64 bits


def read_token_files(document: Document, base: Path) -> dict[str, str]:
    """Return the token of every `token_file` by its path as written; report those that cannot be used."""
    found: dict[str, str] = {}
    admin = document.data.get("admin") if isinstance(document.data, dict) else None
    tokens = admin.get("tokens") if isinstance(admin, dict) else None
    for index, token in enumerate(tokens if isinstance(tokens, list) else []):
        name = token.get("token_file") if isinstance(token, dict) else None
        loc = ("admin", "tokens", index, "token_file")
        if isinstance(name, str) and name and loc not in document.problems:
            try:
                found[name] = _read(name, base)
            except WrongValue as error:
                document.report(loc, str(error))
    return found


def warn_of_weak(document: Document, read: Mapping[str, str]) -> None:
    """Warn of tokens that may be overheard or guessed; `read` holds what token files say."""
    admin = mapping(document.data, "admin") if isinstance(document.data, dict) else {}
    address = good(parse_listen, admin.get("listen", "127.0.0.1:9900"))
    if address is None or is_local(address):
        return
    if "tls" not in admin:
        cure = "set admin.tls, or let nobody but a network that you trust reach it"
        document.warn(("admin", "listen"), f"takes tokens from other machines in clear text: {cure}")
    for index, token in mappings(admin, "tokens"):
        key = "token" if token.get("token") else "token_file"
        text = token.get("token") or read.get(str(token.get("token_file")))
        if isinstance(text, str) and 0 < len(text) < LEAST:
            cure = f"take at least {LEAST} random characters, as of `openssl rand -hex 16`"
            document.warn(("admin", "tokens", index, key), f"is so short that other machines may guess it: {cure}")


def check_same(document: Document, read: Mapping[str, str]) -> None:
    """Report tokens whose secret is that of one before with another role, and warn where the role is the same."""
    admin = mapping(document.data, "admin") if isinstance(document.data, dict) else {}
    seen: dict[str, tuple[str, object]] = {}
    for index, token in mappings(admin, "tokens"):
        key = "token" if token.get("token") else "token_file"
        text = token.get("token") or read.get(str(token.get("token_file")))
        if not isinstance(text, str) or not text:
            continue
        role = token.get("role", "operator")
        first, of_first = seen.setdefault(text, (f"admin.tokens[{index}]", role))
        loc = ("admin", "tokens", index, key)
        if role != of_first:
            document.report(loc, f"is the secret of {first}, whose role it would always get: give it another secret")
        elif first != f"admin.tokens[{index}]":
            document.warn(loc, f"is the secret of {first}, whose name every change would get: give it another secret")


def _read(name: str, base: Path) -> str:
    try:
        token = (base / name).read_text(encoding="ascii").strip()
    except OSError as error:
        raise WrongValue(f"cannot be read ({error.strerror})", f"relative paths are taken from {base}") from None
    except UnicodeDecodeError:
        raise WrongValue("holds a character that no HTTP header can carry") from None
    if not token:
        raise WrongValue("is empty", "write the token into it")
    if not token.isprintable() or " " in token:
        raise WrongValue("holds more than one word", "a token file holds the token alone")
    return token
