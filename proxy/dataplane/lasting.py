"""What lasts on `new`, and its end after a rollback (`on_rollback`).

The problem: a rollback is one store for every request to come, but whoever holds a tunnel (WebSocket) or an event
stream on `new` would stay there for hours. These are closed, and their clients come again, to `stable`: not all at
once, because a handshake costs more than a message and `stable` has just got everybody else.

The workers learn of a rollback from a word beside the weight, which they read in their sweep: it costs no request
anything. The silence of the controller is no rollback, nor is a weight that was lowered to more than 0; and what an
override or `fallback_to_new` brought to `new` stays, as it would be brought there again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.dataplane.deadline import ticks

if TYPE_CHECKING:
    from proxy.dataplane.exchange import Exchange
    from proxy.dataplane.worker import Worker

_SECOND = 20  # ticks


class Lasting:
    """The exchanges of one service in one generation that last and came to `new` by the split."""

    __slots__ = ("_open", "_rollbacks", "_spread")

    def __init__(self, spread_s: float, rollbacks: int) -> None:
        """`spread_s`: over how long they are closed; `rollbacks`: the word at the beginning."""
        self._spread = ticks(spread_s)
        self._rollbacks = rollbacks
        self._open: set[Exchange] = set()

    def add(self, exchange: Exchange, *, shut: bool) -> None:
        """Keep an exchange in mind, or close it soon when the gate is `shut` already."""
        if shut:
            self._close_soon(exchange.worker, exchange)
        else:
            self._open.add(exchange)

    def look(self, worker: Worker, rollbacks: int) -> None:
        """Take the word of this sweep."""
        if rollbacks != self._rollbacks:
            self._rollbacks = rollbacks
            for exchange in self._open:
                self._close_soon(worker, exchange)
            self._open.clear()
        elif self._open and worker.wheel.tick % _SECOND == 0:
            self._open = {exchange for exchange in self._open if exchange.endpoint is not None}

    def _close_soon(self, worker: Worker, exchange: Exchange) -> None:
        worker.wheel.arm(_Closing(exchange), 1 + (worker.random64() * self._spread >> 64))


class _Closing:
    """The end of one exchange, in the timer wheel."""

    __slots__ = ("_exchange", "due", "filed")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.due = 0
        self.filed = 0

    def expire(self, _now: int) -> None:
        exchange = self._exchange
        if exchange.endpoint is None:
            return  # it has ended by itself
        try:
            of = exchange.downstream.exchange  # the exchange itself, or the tunnel that it became
            if of is not None:
                of.leave()
        except Exception as error:  # noqa: BLE001 -- the wheel must turn on
            exchange.worker.internal_error(error)
