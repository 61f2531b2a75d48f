"""The command line without a file: flags to the config that says the same.

The YAML is what `run` prints and what is compiled, so that a first try grows into a file by copying it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

# Which flag a key of the generated config came from, the longest path first.
FLAGS = (
    ("services[0].stable", "--stable"),
    ("services[0].new", "--new"),
    ("services[0].split.new", "--weight"),
    ("services[0].split.sticky", "--sticky"),
    ("services[0].limits.error_rate", "--error-rate"),
    ("services[0].limits.p99", "--p99"),
    ("admin.listen", "--admin-listen"),
    ("admin.tokens[0].token", "TIDEGATE_ADMIN_TOKEN"),
    ("listen", "--listen"),
    ("state", "--state"),
)
TOKEN = "${TIDEGATE_ADMIN_TOKEN:-}"  # noqa: S105 (the variable's name)


def flag_of(key: str) -> str:
    """Return the flag that a key path came from, or the path itself."""
    return next((flag for prefix, flag in FLAGS if key.startswith(prefix)), key)


def flags_to_yaml(
    *,
    stable: Sequence[str],
    new: Sequence[str],
    weight: str,
    sticky: str,
    p99: str,
    error_rate: str,
    listen: str | None,
    admin_listen: str | None,
    state: str | None,
) -> str:
    """Return the config of the flags; empty `p99` or `error_rate` leaves that limit out."""
    by, _, name = sticky.partition(":")
    limits = [f"{metric}: {_quoted(bound)}" for metric, bound in (("error_rate", error_rate), ("p99", p99)) if bound]
    lines = [
        f"listen: {_quoted(listen or '0.0.0.0:8080')}",
        f"state: {_quoted(state or 'none')}",
        "admin:",
        f"  listen: {_quoted(admin_listen or '127.0.0.1:9900')}",
        f'  tokens: [{{name: ops, role: operator, token: "{TOKEN}"}}]',
        "services:",
        "  - name: web",
        f"    stable: {{endpoints: {_list(stable)}}}",
    ]
    if new:
        lines.append(f"    new: {{endpoints: {_list(new)}}}")
    lines += [
        "    split:",
        f"      new: {_quoted(weight if new else '0%')}",
        f"      sticky: {{by: {_quoted(by)}{f', name: {_quoted(name)}' if name else ''}}}",
    ]
    if limits:
        lines.append(f"    limits: {{{', '.join(limits)}}}")
    return "\n".join(lines) + "\n"


def _list(texts: Sequence[str]) -> str:
    return f"[{', '.join(_quoted(text) for text in texts)}]"


def _quoted(text: str) -> str:
    """Return a YAML scalar of exactly this text: JSON's strings are YAML's; `${` would be a variable."""
    return json.dumps(text.replace("${", "$${"))
