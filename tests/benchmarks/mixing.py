#!/usr/bin/env python
"""How well shuffled reads mix documents, for several sizes of window and numbers of streams.

    python tests/benchmarks/mixing.py [--folder FOLDER] [overrides of the demo]

The demo's corpus and harvest in chunks of 128 rows, the first epoch, batches of 512 rows. The
figure is the probability that two rows of a batch are of one document, over that of independent
draws (`bathyscope.metrics.mixing`): 1 is perfect. Unshuffled reads stand beside it.
"""

from __future__ import annotations

import numpy as np

from bathyscope.commands.run import run as run_stages
from bathyscope.composition import compose
from bathyscope.metrics.mixing import mixing
from bathyscope.runs.run import Run
from bathyscope.stages.masks import kept
from bathyscope.values import TRAIN
from bench import arguments, conclude, folder

BATCH_ROWS = 512
STEPS = 50
# (streams, chunks of a window)
SETTINGS = ((1, 1), (1, 4), (1, 16), (4, 4), (8, 16), (128, 16))


def main() -> None:
    """Harvest with small chunks, then look at where the rows of batches come from."""
    given = arguments(__doc__)
    with folder(given.folder) as base:
        # Small chunks, so that so small a store has as many of them as a large one.
        overrides = ["experiment=demo", f"url={base / 'run'}", "store.chunk_bytes=147456"]
        config, _ = compose([*overrides, *given.overrides])
        run_stages(config, stages=["corpus", "harvest"])
        run = Run(config.url)
        rows, corpus = run.activations[config.hook], run.corpus
        items = corpus.split_range(TRAIN)
        documents = corpus.documents(items.start, items.stop)
        counted = kept(corpus.masks(items.start, items.stop))
        everything = documents[counted]
        starts = np.linspace(0, len(everything) - BATCH_ROWS, STEPS).astype(int)
        unshuffled = [everything[s : s + BATCH_ROWS] for s in starts]
        figures = {"unshuffled": round(mixing(unshuffled, everything), 2)}
        for streams, window in SETTINGS:
            batches = rows.batches(
                TRAIN, kept, batch_rows=BATCH_ROWS, streams=streams, window_chunks=window
            )
            steps = np.linspace(0, batches.num_steps(0, 0) - 1, STEPS).astype(int)
            found = []
            for step in steps.tolist():
                origin = batches.origins(0, 0, step)
                found.append(documents[origin[:, 1] - items.start, origin[:, 2]])
            name = f"{batches.num_streams} streams, windows of {window}"
            figures[name] = round(mixing(found, everything), 2)
            print(f"{name:32s} {figures[name]}", flush=True)
        conclude({"chunks": len(batches.chunks), **figures})


if __name__ == "__main__":
    main()
