"""What a crosscoder of two models has in common: latents that write to both.

It reads and writes both sides at once (Lindsey et al. 2024), with as many latents and as large an
L0 as the two dictionaries together, so that nothing has to be shared for want of room. BatchTopK,
as a penalty on norms makes latents look exclusive that are not (Minder et al. 2025,
arXiv:2504.02922). Sides are scaled to one total variance. The relative norm of a latent is

    ‖d_b‖ / (‖d_a‖ + ‖d_b‖):    0 of a alone, 1/2 of both, 1 of b alone

and what has nine tenths of its norm on one side is exclusive only if latent scaling agrees, which
wants sides of one width. The floor is a crosscoder of shuffled documents.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bathyscope.config import Config
from bathyscope.dictionaries.crosscoder import Crosscoder
from bathyscope.dictionaries.kinds import make_dictionary
from bathyscope.dictionaries.layout import columns_of
from bathyscope.evaluation.latent_scaling import LEAST_SHARE, LatentScaling, has_one_width
from bathyscope.metrics.reconstruction import Reconstruction, count_active
from bathyscope.models.precision import default_device_kind
from bathyscope.stages.studies.paired_rows import Paired
from bathyscope.training.calibration import calibrate
from bathyscope.training.initial import initialise
from bathyscope.training.loop import Plan, Scaled, Trainee, train
from bathyscope.training.step import Step, StepSettings
from bathyscope.values import Json

_BLOCK = 4096
EQUAL = 0.3, 0.7
"""Relative norms of latents that write to both sides about as much."""


class RowsInMemory:
    """Shuffled batches of rows that are at hand, by (seed, epoch, step)."""

    in_memory = True

    def __init__(self, rows: Tensor, batch_rows: int) -> None:
        self._rows, self.batch_rows = rows, min(batch_rows, len(rows))
        self._order: tuple[tuple[int, int], Tensor] | None = None

    def num_steps(self, seed: int, epoch: int) -> int:
        """Whole batches, as many in every epoch."""
        return len(self._rows) // self.batch_rows

    def batch(self, seed: int, epoch: int, step: int) -> Tensor:
        """Rows [batch_rows, d of both]."""
        if self._order is None or self._order[0] != (seed, epoch):
            generator = torch.Generator().manual_seed(seed + 1_000_003 * epoch)
            self._order = (seed, epoch), torch.randperm(len(self._rows), generator=generator)
        chosen = self._order[1][step * self.batch_rows : (step + 1) * self.batch_rows]
        return self._rows[chosen]


def common_latents(config: Config, train_rows: Paired, held_out: Paired, *, f: int, k: int) -> Json:
    """How many of the `f` latents, those that fire in held-out rows, write to both sides.

    `k` is L0. Raises `NonFiniteError` where the training diverges.
    """
    scales = torch.cat([_scale(train_rows.x, train_rows.y), _scale(train_rows.y, train_rows.x)])
    rows = torch.cat([train_rows.x, train_rows.y], 1) / scales
    made = _trained(config, rows, (train_rows.x.shape[1], train_rows.y.shape[1]), f=f, k=k)
    return _figures(made, torch.cat([held_out.x, held_out.y], 1) / scales)


def _scale(own: Tensor, other: Tensor) -> Tensor:
    """What brings one side to the mean width as its total variance [d]."""
    total = float(own.double().var(0).sum())
    if not total > 0:
        raise ValueError("The rows of one side are all alike: there is nothing to share.")
    return torch.full((own.shape[1],), math.sqrt(2 * total / (own.shape[1] + other.shape[1])))


def _trained(
    config: Config, rows: Tensor, widths: tuple[int, int], *, f: int, k: int
) -> Crosscoder:
    study, settings, device = config.study, config.train, default_device_kind()
    batches = RowsInMemory(rows, study.batch_rows)
    columns = columns_of([("a", widths[0]), ("b", widths[1])])
    made = make_dictionary(
        "crosscoder",
        columns,
        columns,
        activation="batch_topk",
        k=k,
        num_latents=f,
        options={**vars(config.dictionary), "group_rows": batches.batch_rows},
    )
    assert isinstance(made, Crosscoder), "its kind was named"
    ones = torch.ones(rows.shape[1])
    first = batches.batch(study.seed, 0, 0)
    initialise(made, x=first, y=first, mean=rows.mean(0), seed=study.seed)
    made.to(device)
    step = StepSettings(
        auxk_weight=settings.auxk_weight,
        dead_after_tokens=max(int(settings.dead_after_epochs * len(rows)), 1),
        decoder_norm=settings.decoder_norm,
        clip_norm=settings.clip_norm,
        seed=study.seed,
    )
    plan = Plan(
        epochs=1,
        lr=study.lr,
        warmup_share=settings.warmup_share,
        decay_share=settings.decay_share,
        seed=study.seed,
        most_steps=max(study.tokens_per_latent * f // batches.batch_rows, 1),
    )
    trainee = Trainee(Step(made, step, lr=study.lr), plan)
    train([trainee], batches, scaled=Scaled(made, ones), device=device)
    if trainee.error is not None:
        raise trainee.error
    calibrate(made, (block.to(device) for block in rows.split(_BLOCK)))
    return made.cpu()


@torch.no_grad()
def _figures(made: Crosscoder, rows: Tensor) -> Json:
    one_width = has_one_width(made)
    scaling = LatentScaling(made, torch.ones(rows.shape[1])) if one_width else None
    fired = torch.zeros(made.num_latents, dtype=torch.bool)
    sides = [Reconstruction(block.width) for block in made.outputs]
    for x in rows.split(_BLOCK):
        latents, x_hat = made.reconstruct(x)
        active = count_active(latents.values)
        for block, sums in zip(made.outputs, sides, strict=True):
            own = block.columns
            sums.update(x[:, own], x_hat[:, own], num_active=active)
        fired[latents.indices[latents.values != 0].long()] = True
        if scaling is not None:
            scaling.update(latents.values, latents.indices, x, x_hat)
    norms = made.decoder_norms()
    relative = (norms[:, 1] / norms.sum(1))[fired]
    found: Json = {
        "crosscoder_latents": made.num_latents,
        "crosscoder_fired": int(fired.sum()),
        "crosscoder_fvu_a": sides[0].results()["fvu"],
        "crosscoder_fvu_b": sides[1].results()["fvu"],
        "crosscoder_l0": sides[0].results()["l0"],
        "crosscoder_common": _share((relative > 1 - LEAST_SHARE) & (relative < LEAST_SHARE)),
        "crosscoder_equal": _share((relative > EQUAL[0]) & (relative < EQUAL[1])),
        "crosscoder_a_by_norm": _share(relative <= 1 - LEAST_SHARE),
        "crosscoder_b_by_norm": _share(relative >= LEAST_SHARE),
    }
    if scaling is not None:
        exclusive = scaling.result().exclusive[fired]
        found["crosscoder_a_exclusive"] = _share(exclusive == 0)
        found["crosscoder_b_exclusive"] = _share(exclusive == 1)
    return found


def _share(chosen: Tensor) -> float:
    return float(chosen.double().mean()) if len(chosen) else math.nan
