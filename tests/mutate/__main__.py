"""``python -m tests.mutate --since REVISION``: exit code 1 if fewer than nine in ten faults are caught."""

import argparse
import json
import random
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutate.checks import ROOT, judge
from tests.mutate.mutants import PACKAGE, Mutant, mutants

ENOUGH = 0.9


def changed(since: str) -> list[str]:
    """Files of the package that differ from a revision."""
    command = ["git", "diff", "--name-only", "--diff-filter=d", since, "--", "src/ttr"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    return [
        str(Path(name).relative_to("src/ttr")) for name in names if name.endswith((".py", ".c", ".h", ".inc"))
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="make mutate",
        description="Plant random faults in copies of the package; the tests must catch them.",
    )
    parser.add_argument(
        "files",
        nargs="*",
        help=f"paths in {PACKAGE.relative_to(ROOT)}; without any, those that differ from --since",
    )
    parser.add_argument("--since", default="HEAD~30", help="a revision")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "runs" / "mutate.json",
        help="the results; a fault that is in there is not tried again",
    )
    options = parser.parse_args(arguments)
    known = (
        {result["diff"]: result for result in json.loads(options.out.read_text())}
        if options.out.exists()
        else {}
    )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    drawn = [mutant for file in sorted(options.files or changed(options.since)) for mutant in mutants(file)]
    random.Random(options.seed).shuffle(drawn)
    print(f"{len(drawn)} faults are possible", flush=True)

    def result(mutant: Mutant) -> dict[str, object]:
        return known.get(mutant.diff()) or judge(mutant)

    counts: Counter[str] = Counter()
    with ThreadPoolExecutor(options.processes) as pool:
        # leaving this block cancels the checks that are not needed
        for found in pool.map(result, drawn):
            known[found["diff"]] = found
            options.out.write_text(json.dumps(list(known.values()), indent=1))
            counts[found["outcome"]] += 1
            tried = counts["caught"] + counts["survived"]
            shown = "" if found["outcome"] == "caught" else f"\n{found['diff']}"
            print(
                f"{tried:4d}  {found['outcome']} after {found['seconds']} s: {found['file']}, "
                f"{found['old']} -> {found['new']}{shown}",
                flush=True,
            )
            if tried == options.count:
                break
        pool.shutdown(wait=False, cancel_futures=True)
    print(
        f"{counts['caught']} of {tried} caught; {counts['invalid']} did not compile. Results: {options.out}"
    )
    return int(counts["caught"] < ENOUGH * tried)


if __name__ == "__main__":
    sys.exit(main())
