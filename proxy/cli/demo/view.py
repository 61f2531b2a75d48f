"""What the demo shows: a live picture on a terminal, lines elsewhere, and the story at the end of a round."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from proxy.cli.demo.backend import SLOW
from proxy.cli.demo.facts import Books, Moment, Round

BAR = 40
LINE_EVERY_S = 2.0


class Screen(AbstractContextManager[Callable[[Moment], None]]):
    """A picture that is drawn over itself; leaving the block keeps the last one."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, auto_refresh=False, transient=False)

    def __enter__(self) -> Callable[[Moment], None]:
        """Return the function that draws a moment."""
        self._live.start()
        return lambda moment: self._live.update(picture(moment), refresh=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last picture standing."""
        self._live.stop()


class Lines:
    """A line every two seconds, and one at every change of the phase, where there is no terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._next_s = 0.0
        self._phase = ""

    def show(self, moment: Moment) -> None:
        """Print the moment if it is time for a line."""
        phase = moment.status["phase"]
        if moment.elapsed_s >= self._next_s or phase != self._phase:
            self._next_s = moment.elapsed_s + LINE_EVERY_S
            self._phase = phase
            self._console.print(line(moment), markup=False, highlight=False, soft_wrap=True)


def picture(moment: Moment) -> RenderableType:
    """Return the picture of a moment."""
    weight = moment.status["weights"]["new"]
    filled = round(BAR * weight / 100)
    bar = Text.assemble(
        ("█" * (BAR - filled), "green"),
        ("█" * filled, "magenta"),
        (f"   stable {100 - weight:g} %", "green"),
        (f"   new {weight:g} %", "magenta" if weight else "bold red"),
    )
    return Panel(
        Group(bar, Text(), _versions(moment), Text(), _limits(moment), _clients(moment), _state(moment)),
        title=f"tidegate · round {moment.number} · {moment.elapsed_s:4.1f} s",
        title_align="left",
        width=100,
    )


def _versions(moment: Moment) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("version", "requests/s", "errors", "p50", "p99", "attempts"):
        table.add_column(heading, justify="left" if heading == "version" else "right", header_style="dim")
    for name, version in moment.status["versions"].items():
        window = version["window"]
        bad = bool(window["error_rate"])
        table.add_row(
            Text(f"{name} {version['label']}", style="green" if name == "stable" else "magenta"),
            f"{moment.rates[name]:.0f}",
            Text(_share(window["error_rate"]), style="bold red" if bad else ""),
            _ms(window["p50_ms"]),
            _ms(window["p99_ms"]),
            f"{version['requests']:,}",
        )
    return table


def _limits(moment: Moment) -> Text:
    text = Text.assemble(("limits    ", "dim"))
    for limit in moment.status["limits"]:
        style = {"PASS": "green", "FAIL": "bold red"}.get(limit["verdict"], "yellow")
        show = _share if limit["unit"] == "ratio" else _ms
        text.append(f"{limit['metric']} ≤ {show(limit['max'])}: ", style="default")
        text.append(f"{limit['verdict']} ({show(limit['value'])})   ", style=style)
    return text


def _clients(moment: Moment) -> Text:
    clients = moment.report.get("clients", {"sent": 0, "errors": 0, "p50_ms": 0.0, "p99_ms": 0.0})
    text = Text.assemble(("clients   ", "dim"))
    text.append(f"{clients['sent']:,} requests, ", style="default")
    text.append(f"{clients['errors']:,} saw an error", style="bold red" if clients["errors"] else "green")
    text.append(f", p50 {_ms(clients['p50_ms'])}, p99 {_ms(clients['p99_ms'])} from the intended send time", "default")
    return text


def _state(moment: Moment) -> Text:
    text = Text.assemble(("gate      ", "dim"))
    if moment.round.rolled_back:
        return text.append(f"SHUT by itself: {moment.round.reason}", style="bold red")
    if moment.failing:
        return text.append("open; new has begun to fail", style="yellow")
    return text.append("open; both versions are well", style="green")


def line(moment: Moment) -> str:
    """Return a moment as one line."""
    versions = moment.status["versions"]
    parts = [f"{moment.elapsed_s:5.1f} s", f"weight of new {moment.status['weights']['new']:g} %"]
    for name, version in versions.items():
        window = version["window"]
        parts.append(
            f"{name} {moment.rates[name]:.0f}/s {_share(window['error_rate'])} errors p99 {_ms(window['p99_ms'])}"
        )
    parts.append(f"{moment.report['clients']['errors'] if moment.report else 0} client errors")
    return "  |  ".join(parts)


def story(result: Round) -> RenderableType:
    """Return what happened in a round, with the numbers."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 1))
    table.add_column(justify="right", style="bold")
    table.add_column()
    began = "the first request that new held back" if result.mode == SLOW else "the first bad response of new"
    if result.first_bad_s is not None:
        table.add_row(f"{result.first_bad_s:.2f} s", began)
    if result.rolled_back and result.decided_s is not None:
        later = "" if result.first_bad_s is None else f", {result.decided_s - result.first_bad_s:.2f} s later"
        table.add_row(f"{result.decided_s:.2f} s", f"the gate shut{later}: {result.reason}")
        table.add_row("", Text(_evidence(result.evidence), style="dim"))
        table.add_row(
            f"{result.requests_to_new_after:,}",
            f"requests sent after the decision reached new ({result.under_way} more were on their way already)",
        )
    else:
        table.add_row(Text("—", style="bold red"), Text("the gate did not shut", style="bold red"))
    table.add_row(
        f"{result.client_errors:,}",
        f"of {result.client_requests:,} requests were errors for a client; stable answered {result.rescued:,} for new",
    )
    return Group(table, Text())


def books(found: Books) -> RenderableType:
    """Return the cross-check of the proxy's counters with the backends' own."""
    text = Text.assemble(("Counted in shared memory and by the backends themselves: ", "dim"))
    for name, count in found.proxy.items():
        sign, style = ("=", "green") if count == found.backends[name] else ("≠", "bold red")
        text.append(f"{name} {count:,} {sign} {found.backends[name]:,}   ", style=style)
    return text


def _evidence(evidence: dict[str, Any]) -> str:
    since = evidence["since_breach"]
    told = f"{since['bad']} of the last {since['n']:,} attempts, in {since['blocks']} blocks, were"
    if "slower" in evidence:
        return f"{told} slower than {_ms(evidence['limit'])}; {_share(evidence['slower_allowed'])} is allowed"
    return f"{told} bad; {_share(evidence['limit'])} is allowed"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value * 100:.2f} %".replace(".00 ", " ")


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} ms" if value < 100 else f"{value:.0f} ms"
