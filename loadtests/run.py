"""`make loadtest`: locust's sticky users, headless, against the demo's proxy; fails when a client sees an error.

The demo's two backends and a real `tidegate run` with two workers are started without the demo's own load. When locust
is done, the proxy's own books are checked as well: no bad attempt, no internal error, the weight untouched.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from proxy.cli.demo.parts import Proxy, started

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
WEIGHT = 20


def main(argv: list[str]) -> int:
    """Run the load test; return 0 when no client saw an error and the proxy's books are clean, else 1."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--users", type=int, default=60, help="sticky users, each five requests per second (60)")
    parser.add_argument("--seconds", type=int, default=20, help="length of the run (20)")
    arguments = parser.parse_args(argv)
    RESULTS.mkdir(exist_ok=True)
    with started(WEIGHT) as (_, proxy):
        command = [sys.executable, "-m", "locust", "-f", str(HERE / "locustfile.py"), "--headless", "--only-summary"]
        command += ["-u", str(arguments.users), "-r", str(arguments.users), "-t", f"{arguments.seconds}s"]
        command += ["--host", f"http://127.0.0.1:{proxy.port}", "--html", str(RESULTS / "locust.html")]
        code = subprocess.run(command, check=False).returncode
        complaints = _complaints(proxy)
    if code:
        complaints.append(f"locust ended with exit code {code}: clients saw errors (rows above)")
    for complaint in complaints:
        print(f"loadtest: {complaint}", file=sys.stderr)
    print(f"loadtest: {'FAILED' if complaints else 'passed'}; report: loadtests/results/locust.html")
    return 1 if complaints else 0


def _complaints(proxy: Proxy) -> list[str]:
    """Return what the proxy's own books say against the run."""
    status, found = proxy.status(), []
    for name, version in status["versions"].items():
        print(f"{name}: {version['requests']:,} attempts, {version['bad']} bad, p99 {version['window']['p99_ms']} ms")
        if version["bad"]:
            found.append(f"{version['bad']} attempts of {name} were bad")
    if status["weights"]["new"] != WEIGHT:
        found.append(f"the weight of new is {status['weights']['new']} % and not {WEIGHT} %: {status['reason']}")
    metrics = proxy.client.get("/metrics").splitlines()
    internal = [line.split()[1] for line in metrics if line.startswith("tidegate_internal_errors_total ")]
    found += [f"internal errors: {count}" for count in internal if float(count)]
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
