"""Fuzz the way of requests and answers through the proxy, guided by coverage (atheris; see `make fuzz`).

Arguments are libFuzzer's: `-max_total_time=60`, or files of earlier findings. Without a folder of inputs it begins
with the corpus. A finding is written to ./crash-…; it belongs into tests/corpus/http with what it should have come to.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["proxy.http1", "proxy.dataplane.exchange", "proxy.dataplane.downstream"]):
    from tests.fuzz.inputs import LARGEST, judge, seeds
    from tests.fuzz.passage import Passage
from tests.http1.mutation import PIECES

logging.disable()


def main() -> None:
    passage = Passage()
    with tempfile.TemporaryDirectory() as folder:
        words = Path(folder) / "words"
        lines = ("".join(f"\\x{byte:02x}" for byte in piece) for piece in PIECES)
        words.write_text("".join(f'"{line}"\n' for line in lines))
        inputs = Path(folder) / "inputs"
        inputs.mkdir()
        if not any(not argument.startswith("-") for argument in sys.argv[1:]):
            for number, data in enumerate(seeds()):
                (inputs / str(number)).write_bytes(data)
            sys.argv.append(str(inputs))
        arguments = [*sys.argv, f"-dict={words}", f"-max_len={LARGEST // 2}"]
        atheris.Setup(arguments, lambda data: judge(passage, data))
        atheris.Fuzz()


main()
