"""Every model that takes the digits, on one split (1437/360), with its default preset: bits per dimension beside the floor of independent pixels.

python benchmarks/digits.py [--max-time SECONDS] [MODEL ...]

Published figures on this split are not known; a gated PixelCNN of two minutes' training reaches about 1.78.
"""

import argparse

import manykin as mk
from manykin.models import names
from manykin.models.catalogue import supports

FLOOR = 2.43


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help="all that take pictures where none is named")
    parser.add_argument("--max-time", type=float, default=None, help="seconds of training a model; the preset's steps where not given")
    options = parser.parse_args()
    space = mk.load_data("digits").space
    result = mk.compare(options.models or [name for name in names() if supports(name, space)], "digits", max_time=options.max_time)
    print(f"{'model':18}{'fit':>8}  {'bits per dimension (test)':44}{'below floor':>12}  energy distance")
    for row in result.rows:
        bits, distance = row.metric("bits_per_dim"), row.metric("energy_distance")
        gap = f"{FLOOR - bits.value:+.2f}" if bits is not None else ""
        print(f"{row.model:18}{row.seconds or 0:>6.1f} s  {row.error or bits or 'none'!s:44.44}{gap:>12}  {distance}", flush=True)


if __name__ == "__main__":
    main()
