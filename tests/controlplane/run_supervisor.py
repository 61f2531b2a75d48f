"""A supervisor with fake workers: `run_supervisor.py CONFIG [KNOB…]`. Prints what is announced."""

import logging
import os
import sys
from pathlib import Path

from proxy.admin.app import runner
from proxy.config.compile import compile_file
from proxy.controlplane.supervisor import run
from proxy.errors import TidegateError

FAKE = Path(__file__).with_name("fake_worker.py")


def main():
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    try:
        return run(
            compile_file(Path(sys.argv[1]), os.environ),
            announce=lambda line: print(line, flush=True),
            admin=runner,
            worker=(sys.executable, str(FAKE), *sys.argv[2:]),
        )
    except TidegateError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
