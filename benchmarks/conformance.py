"""How long the conformance suite takes: each model on each example space it takes, level fast (target about 3 s) and full (target 60 s).

python benchmarks/conformance.py [--level full] [MODEL ...]
"""

import argparse
import time
from collections import defaultdict

import manykin as mk
from manykin.models import names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help="all of the table where none is named")
    parser.add_argument("--level", choices=["fast", "full"], default="fast")
    options = parser.parse_args()
    mk.check("box")  # Imports and first calls are paid once, by nobody.
    print(f"{'model':18}{'spaces':>7}{'checks':>8}{'failed':>8}{'a space':>10}{'slowest':>10}{'in all':>10}")
    for name in options.models or names():
        began = time.perf_counter()
        report = mk.check(name, options.level)
        total = time.perf_counter() - began
        spaces: dict[str, float] = defaultdict(float)
        for row in report.rows:
            spaces[row.subject] += row.seconds
        figures = f"{total / len(spaces):>8.1f} s{max(spaces.values()):>8.1f} s{total:>8.1f} s"
        print(f"{name:18}{len(spaces):>7}{len(report.rows):>8}{len(report.failures):>8}{figures}", flush=True)


if __name__ == "__main__":
    main()
