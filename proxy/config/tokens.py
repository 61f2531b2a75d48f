"""Files that hold a token of the admin API.

They are read whenever the config is compiled, so a reload picks up a rotated token. Nothing of their text is ever
shown.
"""

from __future__ import annotations

from pathlib import Path

from proxy.config.load import Document
from proxy.config.wrong import WrongValue


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
