"""Which metric sees which planted degradation: standard errors between spoiled and honest samples, on 400 digits and on 1,000 rows of a table.

Honest samples are real rows that neither the training nor the held-out split holds. A figure that claims to see a degradation must show at least
3.7 standard errors at full strength (one-sided p = 1e-4) on one of the two data sets; claims are marked with a star.

    python benchmarks/degradations.py [--metrics NAMES] [--ground digits|table]
"""

import argparse

from manykin.metrics.features import choose_extractor
from manykin.metrics.table import TABLE as METRICS
from manykin.metrics.table import metric
from manykin.testing.degradations import TABLE, digits_ground, survey, table_ground


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--metrics", default=",".join(name for name in METRICS if metric(name).level != "full"))
    parser.add_argument("--ground", choices=["digits", "table"])
    args = parser.parse_args()
    for name, make in (("digits", digits_ground), ("table", table_ground)):
        if args.ground in (None, name):
            ground = make()
            extractor = choose_extractor("own", ground.case(ground.honest.all().x), name) if name == "digits" else None
            show(name, survey(ground, args.metrics.split(","), extractor=extractor, strengths=(0.5, 1.0)))


def show(name, cells):
    planted = [what for what in TABLE if any(cell.degradation == what for cell in cells)]
    print(f"\n{name}: standard errors worse than honest samples at half | full strength; * is claimed")
    print(f"{'figure':28}" + "".join(f"{what:>22}" for what in planted))
    for figure in dict.fromkeys(cell.figure for cell in cells):
        row = f"{figure.name:28}"
        for what in planted:
            found = sorted((cell.strength, cell.worse) for cell in cells if cell.figure is figure and cell.degradation == what)
            text = " | ".join(f"{worse:.1f}" for _, worse in found) + ("*" if what in figure.sees else " ")
            row += f"{text:>22}"
        print(row)


if __name__ == "__main__":
    main()
