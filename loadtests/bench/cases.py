"""The cases of the benchmark: what is asked of every contestant.

All of them use the same nine-field browser request with one of 1,000 `session` cookies, 64 connections and one
thread of wrk; they differ in the size of the answer, the method and whether the connection is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

CONNECTIONS = 64
COOKIES = 1000
KIB = 1024


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of exchange. `body` is sent (POST) when above 0; `answer` bytes come back; `close`: no keep-alive."""

    name: str
    title: str
    path: str
    answer: int
    body: int = 0
    close: bool = False


CASES: tuple[Case, ...] = (
    Case("small", "128 B answer", "/small", 128),
    Case("64k", "64 KiB answer", "/64k", 64 * KIB),
    Case("1m", "1 MiB answer", "/1m", KIB * KIB),
    Case("post", "16 KiB POST", "/post", 128, body=16 * KIB),
    Case("close", "new connection per request", "/small", 128, close=True),
)


def wrk_script(case: Case) -> str:
    """Return the Lua script that makes wrk send `case` and print its totals as one line of JSON."""
    method = "POST" if case.body else "GET"
    body = f"string.rep('x', {case.body})" if case.body else "nil"
    close = "wrk.headers['Connection'] = 'close'" if case.close else ""
    return f"""
wrk.headers['Host'] = 'shop.example.com'
wrk.headers['User-Agent'] = 'Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0'
wrk.headers['Accept'] = 'text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8'
wrk.headers['Accept-Language'] = 'en-GB,en;q=0.7,de;q=0.3'
wrk.headers['Accept-Encoding'] = 'identity'
wrk.headers['Referer'] = 'https://shop.example.com/catalogue/shoes?page=2'
wrk.headers['DNT'] = '1'
wrk.headers['Cache-Control'] = 'max-age=0'
{close}
local requests, next_request = {{}}, 0
init = function(args)
  for user = 1, {COOKIES} do
    wrk.headers['Cookie'] = 'theme=dark; session=user-' .. user .. '-7f3a9c; consent=1'
    requests[user] = wrk.format('{method}', '{case.path}', nil, {body})
  end
end
request = function()
  next_request = next_request % {COOKIES} + 1
  return requests[next_request]
end
done = function(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {{"requests":%d,"duration_us":%d,"bytes":%d,"p50_us":%d,"p99_us":%d,"max_us":%d,"errors":%d}}\\n',
    summary.requests, summary.duration, summary.bytes,
    latency:percentile(50), latency:percentile(99), latency.max,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""
