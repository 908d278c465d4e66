#!/usr/bin/env python
"""Which L0 dictionaries have that were asked for one: every activation function, two targets.

    python tests/benchmarks/l0_targets.py --folder FOLDER

Planted rows: 256 directions in 64 dimensions, 384 latents, 300 steps of 1,024 rows that are all
new, thresholds set on 16,384 further rows. Real rows: `resid_post.9` of SmolLM2 on 100,000 tokens,
1,152 latents, two epochs of batches of 1,024 rows, by the trainer of `bathyscope train`, which sets
thresholds on the twentieth of the rows that no step saw. FOLDER keeps the activations; a second
call goes on from there.

Training L0 is that of the last batches as they were selected in training, calibrated L0 that of the
rows that thresholds were set on, held-out L0 that of rows of other documents. The deviation is that
of held-out L0 from the target, with its standard error over sequences: those of 20,000 held-out
tokens differ by themselves. The table also has FVU on held-out rows.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bathyscope.cli import compose
from bathyscope.commands.run import run as run_stages
from bathyscope.config import Config
from bathyscope.dictionaries.kinds import AnyDictionary, make_dictionary
from bathyscope.dictionaries.layout import columns_of
from bathyscope.evaluation.planted import Planted
from bathyscope.runs.run import Run
from bathyscope.stages.hook_columns import batches_of, hook_columns
from bathyscope.stages.trained import finished
from bathyscope.stages.trainings import train_one
from bathyscope.stores.objects import Objects
from bathyscope.training.calibration import calibrate
from bathyscope.training.initial import initialise
from bathyscope.training.schedule import make_schedule
from bathyscope.training.step import Step, StepSettings
from bathyscope.values import HELD_OUT
from bench import Quiet, arguments, conclude, folder

KINDS = ("topk", "batch_topk", "jumprelu", "relu", "gated")
TARGETS = {"planted": (4, 16), "real": (16, 48)}
D, LATENTS, STEPS, ROWS = 64, 384, 300, 1024
HOOK = "resid_post.9"
REAL = (
    "experiment=demo", "cluster=inline", "data.train_tokens=100000", "data.held_out_tokens=20000",
    f"hooks.points=[{HOOK}]", "dictionary.num_latents=1152", "train.epochs=2",
    "train.batch_rows=1024", "train.checkpoint_steps=0",
)  # fmt: skip


class Measured(NamedTuple):
    """A trained dictionary on rows that it did not see, in groups that are independent."""

    training_l0: float
    calibrated_l0: float
    l0: float
    l0_error: float
    fvu: float


@torch.no_grad()
def measure(
    dictionary: AnyDictionary, groups: Tensor, seen: Tensor, training_l0: float
) -> Measured:
    """L0 and FVU on groups [groups, rows, d]; `seen` [n, d] are what thresholds were set on."""
    rows = groups.flatten(0, 1)
    latents = dictionary.encode(rows)
    means = latents.count.float().view(len(groups), -1).mean(1)
    left = (rows - dictionary.decode(latents)).square().sum()
    return Measured(
        training_l0,
        float(dictionary.encode(seen).count.float().mean()),
        float(means.mean()),
        float(means.std() / len(means) ** 0.5),
        float(left / (rows - rows.mean(0)).square().sum()),
    )


def planted(kind: str, k: int) -> Measured:
    """One training on planted rows."""
    source = Planted(D, l0=8, seed=100)
    batches = [source.rows(ROWS, 1000 + step).x for step in range(STEPS)]
    mean = torch.stack([batch.mean(0) for batch in batches]).mean(0)
    scale = float((batches[0] - mean).square().mean().sqrt())
    columns = columns_of([("x", D)])
    dictionary = make_dictionary(
        "autoencoder", columns, columns, activation=kind, k=k, num_latents=LATENTS
    )
    first = batches[0] / scale
    initialise(dictionary, x=first, y=first, mean=mean / scale, seed=0)
    step = Step(dictionary, StepSettings(auxk_weight=1 / 32, dead_after_tokens=50 * ROWS), lr=3e-3)
    schedule = make_schedule(lr=3e-3, num_steps=STEPS, warmup_share=0.05, decay_share=0.3)
    l0s = []
    for number, batch in enumerate(batches):
        step.set_lr(schedule.at(number))
        l0s.append(step.step(batch / scale).l0)
    others = source.rows(16 * ROWS, 7).x / scale
    calibrate(dictionary, others.split(ROWS))
    held_out = source.rows(16 * ROWS, 5).x / scale
    return measure(dictionary, held_out.view(64, -1, D), others, statistics.mean(l0s[-5:]))


def real(kind: str, k: int, url: Path) -> Measured:
    """One training on the activations of a run."""
    config = configuration(url, f"dictionary.activation={kind}", f"dictionary.k={k}")
    run = Run(config.url)
    columns = hook_columns(config, run)
    with tempfile.TemporaryDirectory() as made:
        trained = train_one(config, columns, objects=Objects(made), segment="0", guard=Quiet())
    dictionary = finished(trained, config.train.order_seed)
    rows, items = run.activations[HOOK], run.corpus.split_range(HELD_OUT)
    # The first position of a sequence is in no training and in no figure.
    held_out = rows.items(items.start, items.stop)[:, 1:].float()
    seen = torch.cat(list(batches_of(config, columns).aside())).float()
    l0 = statistics.mean(point.figures.l0 for point in trained.curve[-5:])
    return measure(dictionary, held_out, seen, l0)


def configuration(url: Path, *overrides: str) -> Config:
    """That of the real rows."""
    config, _ = compose([*REAL, *overrides, f"url={url}"])
    return config


def main() -> None:
    """Train all, print the table."""
    given = arguments(__doc__)
    figures: dict[str, Any] = {}
    with folder(given.folder) as place:
        url = place / "run"
        run_stages(configuration(url), stages=("corpus", "harvest"))
        print(f"{'rows':8} {'activation':10} {'target':>6} {'training':>9} {'calibrated':>10} "
              f"{'held out':>9} {'deviation':>16} {'FVU':>6}")  # fmt: skip
        for rows, targets in TARGETS.items():
            for kind in KINDS:
                for k in targets:
                    found = planted(kind, k) if rows == "planted" else real(kind, k, url)
                    off, error = 100 * (found.l0 / k - 1), 100 * found.l0_error / k
                    print(f"{rows:8} {kind:10} {k:6} {found.training_l0:9.2f} "
                          f"{found.calibrated_l0:10.2f} {found.l0:9.2f} "
                          f"{off:+8.2f} ± {error:.2f} % {found.fvu:6.3f}", flush=True)  # fmt: skip
                    figures[f"{rows} {kind} {k}"] = {
                        **{name: round(value, 4) for name, value in found._asdict().items()},
                        "deviation_percent": round(off, 2),
                    }
    conclude(figures)


if __name__ == "__main__":
    main()
