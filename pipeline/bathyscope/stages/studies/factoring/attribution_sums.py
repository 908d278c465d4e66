"""Candidates for edges between latents of transcoders, with their co-activations on one text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array

from bathyscope.attribution.graphs.replacement import Replacement
from bathyscope.attribution.virtual_weights import VirtualWeights, virtual_weights
from bathyscope.config import Config
from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.stages.studies.factoring.graphs import PARTS, Say
from bathyscope.stages.studies.opened import OpenedMember
from bathyscope.stages.studies.paired_rows import Side, read_pair
from bathyscope.stages.studies.transcoders import transcoders_of
from bathyscope.studies.firings import clusters_of
from bathyscope.studies.layered import Layered, coactivation, strongest_sources
from bathyscope.studies.sparse_rows import Floats, Integers, sparse_rows
from bathyscope.studies.token_sums import TokenSums
from bathyscope.values import HELD_OUT

CANDIDATES = 256
"""Largest virtual weights of each target and source layer, which are weighted by co-activation."""


@dataclass(frozen=True)
class Summed:
    """Candidate edges of all pairs of layers, with sums over parts of the documents."""

    layers: Integers
    """Of each node [nodes]."""
    targets: Integers
    sources: Integers
    weights: Floats
    """|V| [edges]."""
    together: Floats
    """Σ a_t a_s [parts, edges]."""
    alone: Floats
    """Σ a_t [parts, nodes]."""
    by_token: Floats
    """Σ a_t a_s over all rows, if both knew the current token alone [edges]."""

    def edges(self, keep: NDArray[np.bool_], most: int) -> Layered:
        """The strongest edges of each target over some of the parts."""
        return self._strongest(self.together[keep].sum(0), self.alone[keep].sum(0), most)

    def of_token(self, most: int) -> Layered:
        """The strongest edges of each target that the current token alone would make."""
        return self._strongest(self.by_token, self.alone.sum(0), most)

    def _strongest(self, together: Floats, alone: Floats, most: int) -> Layered:
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.nan_to_num(together / alone[self.targets])
        found = self.targets, self.sources, self.weights * share
        return strongest_sources(self.layers, *found, most)


class _Layer(NamedTuple):
    """The latents of one transcoder on the rows of all."""

    activations: csr_array
    """[rows, latents]"""
    by_token: csr_array
    """Sums over the rows of a token, over the root of their number [tokens, latents]."""


class _Pair(NamedTuple):
    """Candidates of two layers."""

    targets: Integers
    sources: Integers
    weights: Floats
    together: Floats
    by_token: Floats


def summed(config: Config, say: Say) -> Summed:
    """Candidates by virtual weights, with co-activations on the same rows of all layers.

    `config` is that of the run of transcoders. Raises `ConfigError` for models whose norms are not
    known.
    """
    readers = [OpenedMember(own) for own in transcoders_of(config)]
    model = readers[0].model.model
    names = [own.config.dictionary.name for own in readers]
    dictionaries = {name: readers[0].run.dictionaries[name] for name in names}
    parts = Replacement(model, dictionaries).parts
    layers, cuts = _layers(readers, list(dictionaries.values()), config)
    say("attribution: rows read")
    width = parts[0].coder.num_latents
    pairs = []
    for early, late in combinations(range(len(parts)), 2):
        edges = virtual_weights(model, parts[early], parts[late], most=CANDIDATES)
        found = _pair(layers[early], layers[late], edges, cuts)
        pairs.append(
            found._replace(
                targets=late * width + found.targets, sources=early * width + found.sources
            )
        )
    targets, sources, weights, together, by_token = zip(*pairs, strict=True)
    alone = [[each.activations[cut].sum(axis=0) for each in layers] for cut in cuts]
    return Summed(
        layers=np.repeat(np.arange(len(parts)), width),
        targets=np.concatenate(targets),
        sources=np.concatenate(sources),
        weights=np.concatenate(weights),
        together=np.concatenate(together, axis=1),
        alone=np.stack([np.concatenate([np.asarray(a).ravel() for a in part]) for part in alone]),
        by_token=np.concatenate(by_token),
    )


def _pair(early: _Layer, late: _Layer, edges: VirtualWeights, cuts: Sequence[slice]) -> _Pair:
    """Candidates that are ever active together."""
    places = edges.targets, edges.sources
    sums = np.stack(
        [coactivation(late.activations[cut], early.activations[cut], *places) for cut in cuts]
    )
    ever = np.flatnonzero(sums.sum(0) > 0)
    targets, sources = edges.targets[ever], edges.sources[ever]
    return _Pair(
        targets,
        sources,
        np.abs(edges.values[ever]).astype(np.float64),
        sums[:, ever],
        coactivation(late.by_token, early.by_token, targets, sources),
    )


def _layers(
    readers: Sequence[OpenedMember], dictionaries: Sequence[AnyDictionary], config: Config
) -> tuple[list[_Layer], list[slice]]:
    """Activations of each layer's latents, and the rows of each part of the documents."""
    found = []
    for reader, dictionary in zip(readers, dictionaries, strict=True):
        side = Side(reader, dictionary)
        paired = read_pair(side, side, HELD_OUT, config.study.held_out_tokens)
        assert paired.tokens is not None, "a study of text"
        sums = TokenSums(int(paired.tokens.max()) + 1, dictionary.num_latents)
        sums.update(paired.tokens, *paired.a)
        scale = diags_array(1 / np.sqrt(np.maximum(sums.rows, 1)))
        rows = sparse_rows(*paired.a, dictionary.num_latents, name=reader.config.hook)
        found.append(_Layer(rows, csr_array(scale @ sums.sums)))
    parts = clusters_of(paired.documents.numpy(), PARTS)
    ends = np.searchsorted(parts, np.arange(int(parts[-1]) + 2))
    return found, [slice(int(a), int(b)) for a, b in pairwise(ends)]
