"""What the contract has and the running proxy does not do yet: one list, refused by `check`, `run` and reload.

A key that was ignored would be a promise broken in silence, so that a config with one of these is refused with the
sentence "is not in this version yet" and what to do instead. Paths are keys without indexes, `*` is any name. A key
leaves this list in the commit that makes it work; then `python -m proxy.config.reference` documents it by itself.
Rollout plans that are checked alone (`check FILE`, `plan FILE`) are compiled in full: nothing runs them here.
"""

from __future__ import annotations

from collections.abc import Iterator

from proxy.config.load import Document, Loc

Path = tuple[str, ...]

NOT_YET: dict[Path, str] = {}


def path_of(loc: Loc) -> Path:
    """Return the keys of a place without its indexes."""
    return tuple(part for part in loc if isinstance(part, str))


def sentence(path: Path) -> str | None:
    """Return what to say about a key that is not done yet, `None` if it is."""
    return next((cure for pattern, cure in NOT_YET.items() if _fits(path, pattern)), None)


def keys(section: Path) -> list[str]:
    """Return the keys directly in a section that are not done yet."""
    return [pattern[-1] for pattern in NOT_YET if _fits(section, pattern[:-1])]


def check(document: Document) -> None:
    """Report every key of a document that is not done yet."""
    for loc in _keys(document.data, ()):
        cure = sentence(path_of(loc))
        if cure is not None:
            document.report(loc, f"is not in this version yet: {cure}", at_key=True)


def _fits(path: Path, pattern: Path) -> bool:
    return len(path) == len(pattern) and all(want in ("*", part) for part, want in zip(path, pattern, strict=True))


def _keys(data: object, loc: Loc) -> Iterator[Loc]:
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        if isinstance(data, dict):
            yield (*loc, key)
        yield from _keys(value, (*loc, key))
