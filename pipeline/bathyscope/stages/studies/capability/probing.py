"""Sparse probing of a member: whether few latents tell what a text's labels are.

Labels are made from the tokens and documents alone. Columns are chosen, and probes fitted, on
training rows; all figures are of held-out rows, whose documents were not trained on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor

from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.evaluation.controls import fit_components, random_dictionary
from bathyscope.models.tokenizers import load_tokenizer, token_strings
from bathyscope.stages.inputs import model_folder
from bathyscope.stages.studies.capability.probe_figures import (
    DENSE,
    FLOOR,
    NO_DICTIONARY,
    Scored,
    told,
)
from bathyscope.stages.studies.coders import BLOCK, DICTIONARY, NEURONS, PCA, RANDOM, mean_row
from bathyscope.stages.studies.member_runs import Size
from bathyscope.stages.studies.opened import OpenedMember
from bathyscope.stages.studies.study import Tell
from bathyscope.studies.probes import (
    fit_probe,
    most_separate,
    token_scores,
)
from bathyscope.studies.sparse_rows import sparse_rows
from bathyscope.studies.token_labels import LABELS, Label, labels_of
from bathyscope.values import HELD_OUT, TRAIN, Json

LEFT_OUT, SHUFFLED = "left_out", "shuffled"
KS = (1, 5)
FEWEST_ROWS = 50
"""Of each class, in training and held out, for a label that is asked."""
Rows = Any
"""[rows, columns]: a NumPy array, or a sparse one of SciPy."""


@dataclass(frozen=True)
class Asked:
    """Rows of a split with their labels."""

    x: Tensor
    """Activations [rows, d], float32."""
    labels: NDArray[np.bool_]
    """[rows, labels]."""
    tokens: NDArray[np.int64]
    documents: NDArray[np.int64]
    """Numbers from 0 on [rows]."""


@dataclass(frozen=True)
class Represented:
    """The same rows in one representation."""

    kind: str
    size: Size
    train: Rows
    test: Rows


def measure_probes(opened: OpenedMember, sizes: Sequence[Size], tell: Tell) -> list[Json]:
    """A row for each label, representation and number of columns, and one that sums up labels.

    Labels with too few rows of a class are named in rows of their own.
    """
    texts = _vocabulary(opened)
    train = _asked(opened, TRAIN, opened.config.study.probe_tokens, texts)
    test = _asked(opened, HELD_OUT, opened.config.study.held_out_tokens, texts)
    chosen, left_out = _common(train, test)
    rows: list[Json] = [{"kind": LEFT_OUT, "label": label.name} for label in left_out]
    if not chosen:
        return rows
    numbers = [LABELS.index(label) for label in chosen]
    asked = (_some(train, numbers), _some(test, numbers))
    scored = list(_floor(asked, chosen, len(texts)))
    tell(0.1, "probes: all coordinates")
    scored += _dense(asked, chosen)
    sparse = list(_represented(opened, asked, sizes))
    for number, each in enumerate(sparse):
        scored += _sparse(opened, each, asked, chosen)
        tell(0.4 + 0.6 * (number + 1) / len(sparse), f"probes: {each.kind}")
    study = opened.config.study
    truth = {label.name: test.labels[:, LABELS.index(label)] for label in chosen}
    return rows + told(scored, truth, test.documents, resamples=study.resamples, seed=study.seed)


def _vocabulary(opened: OpenedMember) -> list[str]:
    tokenizer = load_tokenizer(model_folder(opened.config))
    return token_strings(tokenizer, list(range(len(tokenizer))))


def _asked(opened: OpenedMember, split: str, tokens: int, texts: Sequence[str]) -> Asked:
    """Rows that count, of which every label is known."""
    x, labels, ids, owners = [], [], [], []
    for batch in opened.batches(split, tokens):
        number = batch.first_item
        found, known = labels_of(batch.tokens.numpy(), batch.documents.numpy(), texts)
        keep = batch.keep.numpy() & known
        some = opened.rows.items(number, number + len(batch.tokens))
        x.append(some[torch.from_numpy(keep)].float())
        labels.append(np.stack([found[label.name][keep] for label in LABELS], axis=1))
        ids.append(batch.tokens.numpy()[keep])
        owners.append(batch.documents.numpy()[keep])
    _, documents = np.unique(np.concatenate(owners), return_inverse=True)
    return Asked(torch.cat(x), np.concatenate(labels), np.concatenate(ids), documents)


def _some(asked: Asked, numbers: Sequence[int]) -> Asked:
    return Asked(asked.x, asked.labels[:, list(numbers)], asked.tokens, asked.documents)


def _common(train: Asked, test: Asked) -> tuple[list[Label], list[Label]]:
    """Labels of which both classes have enough rows in both splits, and the others."""
    fewest = np.min(
        [np.minimum(a.labels.sum(0), (~a.labels).sum(0)) for a in (train, test)], axis=0
    )
    groups: tuple[list[Label], list[Label]] = ([], [])
    for label, count in zip(LABELS, fewest.tolist(), strict=True):
        groups[count < FEWEST_ROWS].append(label)
    return groups


def _floor(
    asked: tuple[Asked, Asked], labels: Sequence[Label], vocabulary: int
) -> Iterator[Scored]:
    """What the current token alone says."""
    train, test = asked
    for number, label in enumerate(labels):
        known = token_scores(train.tokens, train.labels[:, number], vocabulary)
        yield Scored(label, FLOOR, NO_DICTIONARY, 0, known[test.tokens])


def _dense(asked: tuple[Asked, Asked], labels: Sequence[Label]) -> Iterator[Scored]:
    """A probe on all coordinates."""
    train, test = asked
    x, y = train.x.double().numpy(), test.x.double().numpy()
    for number, label in enumerate(labels):
        probe = fit_probe(x, train.labels[:, number])
        yield Scored(label, DENSE, NO_DICTIONARY, 0, probe.scores(y))


def _represented(
    opened: OpenedMember, asked: tuple[Asked, Asked], sizes: Sequence[Size]
) -> Iterator[Represented]:
    """Latents of each dictionary and of a random one of its size, coordinates, and PCA."""
    train, test = asked
    yield Represented(NEURONS, NO_DICTIONARY, train.x.numpy(), test.x.numpy())
    parts = fit_components(train.x.split(BLOCK), width=train.x.shape[1], num=train.x.shape[1])
    turned = [((a.x - parts.mean) @ parts.components.T).numpy() for a in asked]
    yield Represented(PCA, NO_DICTIONARY, turned[0], turned[1])
    for size in sizes:
        dictionary = opened.run.dictionaries[size.name]
        yield Represented(DICTIONARY, size, *(_latents(dictionary, a.x) for a in asked))
    mean = mean_row(opened)
    for latents, k in sorted({(size.num_latents, size.k) for size in sizes}):
        control = random_dictionary(
            train.x.split(BLOCK)[:4],
            mean=mean,
            num_latents=latents,
            k=k,
            seed=opened.config.study.seed,
        ).dictionary
        yield Represented(RANDOM, Size(latents, k, 0), *(_latents(control, a.x) for a in asked))


@torch.no_grad()
def _latents(dictionary: AnyDictionary, x: Tensor) -> csr_array:
    found = [dictionary.encode(block) for block in x.split(BLOCK)]
    values, indices = torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])
    return sparse_rows(values, indices, dictionary.num_latents, name="a dictionary")


def _sparse(
    opened: OpenedMember, given: Represented, asked: tuple[Asked, Asked], labels: Sequence[Label]
) -> Iterator[Scored]:
    """Probes on the columns that part each label best; of dictionaries also on shuffled labels."""
    train, _ = asked
    best = most_separate(given.train, train.labels, max(KS))
    for number, label in enumerate(labels):
        for k in KS:
            columns = best[number, :k]
            probe = fit_probe(_columns(given.train, columns), train.labels[:, number])
            scores = probe.scores(_columns(given.test, columns))
            yield Scored(label, given.kind, given.size, k, scores)
    if given.kind != DICTIONARY:
        return
    order = np.random.default_rng(opened.config.study.seed).permutation(len(train.labels))
    mixed = train.labels[order]
    best = most_separate(given.train, mixed, max(KS))
    for number, label in enumerate(labels):
        columns = best[number]
        probe = fit_probe(_columns(given.train, columns), mixed[:, number])
        scores = probe.scores(_columns(given.test, columns))
        yield Scored(label, SHUFFLED, given.size, max(KS), scores)


def _columns(rows: Rows, columns: NDArray[np.int64]) -> NDArray[np.float64]:
    chosen: Any = rows[:, columns]
    return np.asarray(chosen.toarray() if isinstance(rows, csr_array) else chosen, dtype=np.float64)
