"""What starting costs: ``manykin --help`` under 0.4 s, ``import manykin`` under 0.1 s more than the bare interpreter.

Run: ``python benchmarks/startup.py [--repeats 20]``. Prints the median and the fastest of so many processes, beside the interpreter alone.
"""

import argparse
import statistics
import subprocess
import sys
import time

CALLS = {"python -c pass": ["-c", "pass"], "import manykin": ["-c", "import manykin"], "manykin --help": ["-m", "manykin", "--help"]}
LIMITS = {"import manykin": 0.1, "manykin --help": 0.4}


def measure(arguments: list[str], repeats: int) -> list[float]:
    found = []
    for _ in range(repeats):
        begun = time.perf_counter()
        subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
        found.append(time.perf_counter() - begun)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    repeats = parser.parse_args().repeats
    times = {name: measure(arguments, repeats) for name, arguments in CALLS.items()}
    bare = statistics.median(times["python -c pass"])
    for name, found in times.items():
        print(f"{name:16} median {statistics.median(found):.3f} s, fastest {min(found):.3f} s")
    costs = {"import manykin": statistics.median(times["import manykin"]) - bare, "manykin --help": statistics.median(times["manykin --help"])}
    for name, limit in LIMITS.items():
        print(f"{name:16} {costs[name]:.3f} s, limit {limit} s: {'ok' if costs[name] < limit else 'MISSED'}")
    sys.exit(any(costs[name] >= limit for name, limit in LIMITS.items()))


if __name__ == "__main__":
    main()
