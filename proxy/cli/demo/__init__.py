"""`tidegate demo`: the whole product on one screen, on this machine, in under a minute.

Three programs run: the traffic (two backends and an open-loop load, `traffic.py`), the proxy (a real `tidegate run`
with two workers), and this one, which only looks: at the admin API for what the proxy measured, at the traffic for what
the backends counted themselves. After a while `new` is made to fail; the gate has to shut without anybody's help.
"""

from __future__ import annotations

from typing import Annotated

import typer

ROLLED_BACK, NOT_ROLLED_BACK = 3, 1


def demo(
    headless: Annotated[
        bool, typer.Option("--headless", help="One round, no screen: print JSON, exit 3 (rolled back) or 1 (not).")
    ] = False,
    seconds: Annotated[
        float, typer.Option("--seconds", metavar="SECONDS", min=4, max=3600, help="Length of a round, in seconds.")
    ] = 20.0,
    rate: Annotated[
        int, typer.Option("--rate", metavar="PER_SECOND", min=20, max=5000, help="Requests per second of all users.")
    ] = 500,
    weight: Annotated[
        int, typer.Option("--weight", metavar="PERCENT", min=1, max=100, help="Share of users on `new`, in percent.")
    ] = 20,
) -> None:
    """Show it all on this machine: two backends, the proxy, a load; `new` fails and the gate shuts."""
    from proxy.cli.demo.play import play

    rounds = play(headless=headless, seconds=seconds, rate=rate, weight=weight)
    shut = all(result.rolled_back for result in rounds) and bool(rounds)
    if headless:
        import orjson

        typer.echo(orjson.dumps(rounds[0].to_plain()).decode())
        raise typer.Exit(ROLLED_BACK if shut else NOT_ROLLED_BACK)
    raise typer.Exit(0 if shut else 1)
