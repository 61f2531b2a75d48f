"""From samples to a table: medians over the rounds, and ratios to nginx taken round by round."""

from __future__ import annotations

import datetime as dt
import os
import platform
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from loadtests.bench.cases import CASES
from loadtests.bench.race import Outcome, Sample

REFERENCE = "nginx"


def per_request_us(sample: Sample) -> float:
    """Return the CPU time of the whole process tree per request, in µs."""
    return (sample.cpu.user + sample.cpu.system) / max(1, sample.load.requests) * 1e6


def summary(outcome: Outcome) -> list[dict[str, Any]]:
    """Return one row per case and contestant, in the order of the cases: medians, spread and the ratio to nginx."""
    rows: list[dict[str, Any]] = []
    for case in CASES:
        ours = [sample for sample in outcome.samples if sample.case == case.name]
        reference = {sample.round: per_request_us(sample) for sample in ours if sample.contestant == REFERENCE}
        for name in dict.fromkeys(sample.contestant for sample in sorted(ours, key=lambda sample: sample.round)):
            samples = [sample for sample in ours if sample.contestant == name]
            rows.append({"case": case.name, "title": case.title, "contestant": name, **_row(samples, reference)})
    return rows


def _row(samples: list[Sample], reference: dict[int, float]) -> dict[str, Any]:
    def middle(value: Callable[[Sample], float]) -> float:
        return median(value(sample) for sample in samples)

    ratios = [
        per_request_us(sample) / reference[sample.round] for sample in samples if reference.get(sample.round, 0) > 0
    ]
    workers = [
        (sample.worker_cpu.user + sample.worker_cpu.system) / max(1, sample.load.requests) * 1e6
        for sample in samples
        if sample.worker_cpu is not None
    ]
    return {
        "cpu_us": middle(per_request_us),
        "cpu_us_min": min(per_request_us(sample) for sample in samples),
        "cpu_us_max": max(per_request_us(sample) for sample in samples),
        "user_us": middle(lambda sample: sample.cpu.user / max(1, sample.load.requests) * 1e6),
        "system_us": middle(lambda sample: sample.cpu.system / max(1, sample.load.requests) * 1e6),
        "worker_cpu_us": median(workers) if workers else None,
        "ratio": median(ratios) if ratios else None,
        "ratio_min": min(ratios) if ratios else None,
        "ratio_max": max(ratios) if ratios else None,
        "requests_per_s": middle(lambda sample: sample.load.requests / sample.load.seconds),
        "p50_ms": middle(lambda sample: sample.load.p50_ms),
        "p99_ms": middle(lambda sample: sample.load.p99_ms),
        "pss_mib": middle(lambda sample: sample.pss_kib / 1024),
        "errors": sum(sample.load.errors for sample in samples),
        "rounds": len(samples),
    }


def machine() -> str:
    """Return the processor, the number of usable cores, the kernel and the Python of this machine."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    cores = len(os.sched_getaffinity(0))
    return f"{model}, {cores} cores, Linux {platform.release()}, Python {platform.python_version()}"


def as_json(outcome: Outcome, command: str, now: dt.datetime) -> dict[str, Any]:
    """Return everything: who, where, when, every sample and the summary."""
    return {
        "command": command,
        "date": now.strftime("%Y-%m-%d %H:%M UTC"),
        "machine": machine(),
        "versions": outcome.versions,
        "skipped": outcome.skipped,
        "complaints": outcome.complaints,
        "share_to_new": outcome.share_to_new,
        "idle_pss_kib": outcome.idle_pss_kib,
        "summary": summary(outcome),
        "samples": [asdict(sample) for sample in outcome.samples],
    }


HEADINGS = (
    "case",
    "contestant",
    "CPU µs/request",
    "user",
    "system",
    "× nginx",
    "requests/s",
    "p50 ms",
    "p99 ms",
    "PSS MiB",
)


def cells(row: dict[str, Any]) -> list[str]:
    """Return a row of the table as text, in the order of `HEADINGS`."""
    worker = row["worker_cpu_us"]
    name = row["contestant"] + (f" ({row['errors']} errors)" if row["errors"] else "")
    return [
        row["title"],
        name,
        f"{row['cpu_us']:.1f}" + (f" (worker {worker:.1f})" if worker is not None else ""),
        f"{row['user_us']:.1f}",
        f"{row['system_us']:.1f}",
        "–" if row["ratio"] is None else f"{row['ratio']:.2f} ({row['ratio_min']:.2f}–{row['ratio_max']:.2f})",
        f"{row['requests_per_s']:,.0f}",
        f"{row['p50_ms']:.2f}",
        f"{row['p99_ms']:.2f}",
        f"{row['pss_mib']:.0f}",
    ]


def as_readme(result: dict[str, Any]) -> str:
    """Return the short table: a row per case, a column per contestant, CPU µs per request and the ratio to nginx."""
    names = list(dict.fromkeys(row["contestant"] for row in result["summary"]))
    found = {(row["case"], row["contestant"]): row for row in result["summary"]}
    lines = [
        "| CPU µs per request (× nginx) | " + " | ".join(names) + " |",
        "|---|" + "---:|" * len(names),
    ]
    for case in CASES:
        rows = [found.get((case.name, name)) for name in names]
        if any(rows):
            lines.append(f"| {case.title} | " + " | ".join(_short(row) for row in rows) + " |")
    memory = [f"{result['idle_pss_kib'][name] / 1024:.0f} MiB" for name in names]
    lines += [
        "| memory before the first load (PSS) | " + " | ".join(memory) + " |",
        "",
        f"{result['date']}, {result['machine']}; {_versions(result)}.",
        f"`{result['command']}`; medians of {max(row['rounds'] for row in result['summary'])} interleaved rounds.",
    ]
    return "\n".join(lines) + "\n"


def _short(row: dict[str, Any] | None) -> str:
    if row is None:
        return "–"
    return f"{row['cpu_us']:.1f}" + ("" if row["ratio"] is None else f" ({row['ratio']:.2f})")


def _versions(result: dict[str, Any]) -> str:
    return ", ".join(f"{name} {text}" for name, text in result["versions"].items())


def as_markdown(result: dict[str, Any]) -> str:
    """Return the table with the date, the machine and the command above it."""
    lines = [
        f"Measured {result['date']} on {result['machine']}; `{result['command']}`.",
        "Medians over the rounds; `× nginx` is taken round by round (in brackets the lowest and the highest).",
        "",
        "| " + " | ".join(HEADINGS) + " |",
        "|" + "---|" * 2 + "---:|" * (len(HEADINGS) - 2),
    ]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in result["summary"]]
    lines += ["", f"Versions: {_versions(result)}."]
    idle = ", ".join(f"{name} {kib / 1024:.0f}" for name, kib in result["idle_pss_kib"].items())
    lines += [f"Memory before the first load, MiB PSS: {idle}."]
    shares = ", ".join(f"{name} {share:.1%}" for name, share in result["share_to_new"].items())
    lines += [f"Users sent to `new` (10 % configured): {shares}."]
    lines += [f"**Not comparable**: {complaint}." for complaint in result["complaints"]]
    lines += [f"Skipped: {name}: {why.splitlines()[0]}." for name, why in result["skipped"].items()]
    return "\n".join(lines) + "\n"
