"""The ceiling: decoding, preprocessing and a forward pass without HTTP, in one process on all cores.

    python -m benchmarks.serving.ceiling --checkpoint CHECKPOINT --pictures FOLDER

Prints JSON: images a second of every form of the model, one by one with all threads, and in batches with one thread a core.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import torch

import models
from benchmarks.serving import null
from common.pictures import open_picture

BATCH = 8
CORES = len(os.sched_getaffinity(0))

ALONE, BATCHED = "one by one", f"batches of {BATCH}"
AS_LOADED, FOLDED, BFLOAT16 = "float32, as loaded", "float32, folded", "bfloat16, folded"
"""Folded: batch norms are part of the convolutions, weights are channels-last."""

Rates = dict[str, dict[str, float]]
"""Images a second by form of the model, then `ALONE` or `BATCHED`."""


def forms(checkpoint: Path) -> dict[str, models.Classifier]:
    """Load the model and the copies that are faster."""
    plain = models.load(checkpoint)
    return {AS_LOADED: plain, FOLDED: models.fold(plain), BFLOAT16: models.fold(plain, "bfloat16")}


def rate(
    classifier: models.Classifier, pictures: Sequence[bytes], *, streams: int, batch: int, seconds: float
) -> float:
    """Count images a second.

    Args:
        classifier: what answers.
        pictures: files to decode, again and again.
        streams: threads that decode and classify, each with its share of the cores.
        batch: images of a forward pass.
        seconds: how long; a batch that has begun is finished.
    """
    deadline = time.perf_counter() + seconds

    def stream(_: int) -> float:
        torch.set_num_threads(max(1, CORES // streams))
        source, start, done = cycle(pictures), time.perf_counter(), 0
        while time.perf_counter() < deadline:
            images = [classifier.card.preprocessing(open_picture(data)) for data in islice(source, batch)]
            with torch.inference_mode():
                classifier(torch.stack(images))
            done += batch
        return done / (time.perf_counter() - start)

    with ThreadPoolExecutor(streams) as pool:
        return sum(pool.map(stream, range(streams)))


def measure(checkpoint: Path, pictures: Sequence[bytes], seconds: float) -> Rates:
    """Measure all forms, after a few images to warm up."""
    rates: Rates = {}
    for name, classifier in forms(checkpoint).items():
        rate(classifier, pictures, streams=CORES, batch=BATCH, seconds=seconds / 8)
        rates[name] = {
            ALONE: rate(classifier, pictures, streams=1, batch=1, seconds=seconds),
            BATCHED: rate(classifier, pictures, streams=CORES, batch=BATCH, seconds=seconds),
        }
    return rates


def main() -> None:
    """Read the flags, print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--checkpoint", type=Path, required=True, help="file with a card beside it")
    parser.add_argument("--pictures", type=Path, required=True, help="folder of pictures")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each number (default 4)")
    flags = parser.parse_args()
    null.register()
    pictures = [file.read_bytes() for file in sorted(flags.pictures.iterdir())]
    print(json.dumps(measure(flags.checkpoint, pictures, flags.seconds)))


if __name__ == "__main__":
    main()
