"""Run a training in a process of its own: training_script.py MODEL FOLDER JSON [DELAY]; resumes where there is something to resume.

JSON holds the options of training and, under ``rows`` and ``model``, those of the data and the model. With DELAY every save is slowed down, so that
a kill often falls into one.
"""

import json
import os
import sys
import time

import torch

sys.path.insert(0, os.path.dirname(__file__))
from manykin.training import Interrupted, RunFolder, TrainOptions, files, train
from training_models import blobs, build


def slow_down(delay):
    fsync = os.fsync

    def slow(descriptor):
        time.sleep(delay)
        fsync(descriptor)

    files.os.fsync = slow


def main(name, folder, spec, delay="0"):
    torch.set_num_threads(1)
    options = json.loads(spec)
    if float(delay):
        slow_down(float(delay))
    data = blobs(options.pop("rows", 300), options.pop("val", None), options.pop("d", 2))
    model = build(name, data, **options.pop("model", {}))
    try:
        run = RunFolder.create(folder, resume=True)
        print("begun", flush=True)
        result = train(model, data, TrainOptions.from_json(options), run=run, resume=True, progress=lambda state: None)
        print("ended", result.stopped, flush=True)
    except Interrupted as stop:
        print(stop, flush=True)
        sys.exit(stop.exit_code)


if __name__ == "__main__":
    main(*sys.argv[1:])
