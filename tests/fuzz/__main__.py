"""``python -m tests.fuzz --seed 3 --calls 2000``: exit code 1 if anything was found."""

import argparse
import functools
import sys

from tests.fuzz.run import run


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="make fuzz",
        description="Play drawn calls: each must equal the definition or be refused in a sentence.",
    )
    parser.add_argument(
        "--seed", type=int, nargs="+", default=[0], help=("one or more; the same seed draws the same calls")
    )
    parser.add_argument("--calls", type=int, default=2000, help="calls per seed")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    reports = []
    for seed in options.seed:
        reports.append(run(seed, options.calls, options.processes, functools.partial(print, flush=True)))
        print(f"Seed {seed}: {reports[-1].summary()}", flush=True)
    sys.exit(any(report.found for report in reports))


if __name__ == "__main__":
    main()
