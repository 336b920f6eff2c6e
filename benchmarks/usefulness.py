"""Are samples useful: trained on synthetic rows, tested on real ones, on Adult (census income) and on scikit-learn's digits.

Run ``MANYKIN_DATA=FOLDER python benchmarks/usefulness.py`` (a few minutes); Adult is left out where the folder does not hold ``adult/adult.data``
and ``adult/adult.test``. ``--rows N`` fits on N rows of Adult (10,000; 0: all), ``--time SECONDS`` is the budget of each model (60).

Published beside ours, Adult, official test split, tuned CatBoost trained on samples (Kotelnikov et al., TabDDPM, 2023, evaluation files of the
authors' code): macro F1 / area under the ROC curve / accuracy of real rows .815 / .93 / .874, TabDDPM .795 / .914 / .861, SMOTE .791 / .910 / .858,
CTAB-GAN .783 / .904 / .854, TVAE .781 / .902 / .850. Ours is gradient boosting that is not tuned, and a subset of the rows unless ``--rows 0``.
"""

import argparse
import contextlib
import os
import time
from pathlib import Path

import manykin as mk
from manykin.errors import ManykinError
from manykin.metrics import Evaluation

PUBLISHED = (
    ("real", 0.815, 0.93, 0.874),
    ("TabDDPM", 0.795, 0.9136, 0.8606),
    ("SMOTE", 0.791, 0.9104, 0.8582),
    ("CTAB-GAN", 0.783, 0.9038, 0.8536),
    ("TVAE", 0.781, 0.9017, 0.8500),
)
ADULT = (("independent", None), ("mixture", None), ("mixture", "Y"))
DIGITS = ("independent", "gaussian-mixture", "realnvp", "vae", "gan")
METRICS = "columns,usefulness,augmentation"


def frames(folder: Path, rows: int) -> tuple[object, object]:
    """Adult's own two splits, without the dots of the second and its rows of categories that the first lacks."""
    import pandas as pd

    found = []
    for name in ("adult.data", "adult.test"):
        frame = pd.read_csv(folder / name, skipinitialspace=True, na_values="?").dropna(subset=["Y"])
        frame["Y"] = frame["Y"].str.rstrip(".")
        found.append(frame)
    train = found[0] if rows == 0 else found[0].sample(rows, random_state=0)
    test = found[1]
    for name in train.select_dtypes(exclude="number"):
        test = test[test[name].isna() | test[name].isin(set(train[name].dropna()))]
    return train, test


def show(found: Evaluation, seconds: float) -> None:
    """The rows of one model."""
    for name in ("column_distance", "pair_distance", "generative_gap", "augmentation_gain"):
        for each in (name, f"{name}_floor"):
            with contextlib.suppress(KeyError):
                print(f"    {each:24s} {found[each].value:.4f} +- {found[each].stderr or 0:.4f}")
    for row in found.details.get("usefulness", {}).get("rows", ()):
        extra = "".join(f"  {key} {row[key]:.3f}" for key in ("roc_auc", "macro_f1") if key in row)
        print(f"    {row['trained_on']:20s} {row['classifier']:28s} {row['score']:.4f} +- {row['stderr'] or 0:.4f}{extra}")
    print("    " + found.details.get("augmentation", {}).get("verdict", "no augmentation").replace(". ", ".\n    "))
    for each in found.warnings:
        print(f"    warning: {each}")
    print(f"    evaluated in {seconds:.1f} s")


def adult(folder: Path, rows: int, budget: float) -> None:
    """Fit on training rows, predict income on the official test rows."""
    train, test = frames(folder, rows)
    print(f"Adult: {len(train)} rows to fit on, {len(test)} test rows; income above 50K")
    for name, f1, area, accuracy in PUBLISHED:
        print(f"    published: {name:10s} macro F1 {f1:.3f}  roc_auc {area:.3f}  accuracy {accuracy:.3f}")
    for name, condition in ADULT:
        start = time.perf_counter()
        fitted = mk.fit(name, train, condition=condition, max_time=budget)
        print(f"  {name}{'' if condition is None else f' given {condition}'}, fitted in {time.perf_counter() - start:.1f} s")
        start = time.perf_counter()
        show(mk.evaluate(fitted, test, metrics=METRICS, target="Y"), time.perf_counter() - start)


def digits(budget: float) -> None:
    """Conditional models, told which digit to draw."""
    print("digits: 1,437 rows to fit on, 360 test rows; which digit")
    for name in DIGITS:
        start = time.perf_counter()
        try:
            fitted = mk.fit(name, "digits", condition=True, max_time=budget)
        except ManykinError as refusal:
            print(f"  {name}: {refusal}")
            continue
        print(f"  {name}, fitted in {time.perf_counter() - start:.1f} s")
        start = time.perf_counter()
        show(mk.evaluate(fitted, metrics=METRICS), time.perf_counter() - start)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--time", type=float, default=60.0)
    options = parser.parse_args()
    digits(options.time)
    source = Path(os.environ.get("MANYKIN_DATA", "")) / "adult"
    if (source / "adult.data").is_file():
        adult(source, options.rows, options.time)
    else:
        print("Adult is left out: MANYKIN_DATA names no folder that holds adult/adult.data.")
