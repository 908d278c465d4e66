"""Documents of real text as a model and a dictionary see them, for the benchmark of drift."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bathyscope.corpora.sources import open_source
from bathyscope.dictionaries.dictionary import Dictionary
from bathyscope.dictionaries.files import from_files
from bathyscope.features.drift.documents import Documents, Scales
from bathyscope.features.drift.part import NightPart
from bathyscope.features.drift.totals import Totals
from bathyscope.models.capture import Capture
from bathyscope.models.hook_points import HookPoint, layers_needed, resolve
from bathyscope.models.load import load_model, read_config

# Rows of a forward pass, windows of one length together.
_WINDOWS = 64


class Subject(NamedTuple):
    """A model, a dictionary of one of its hook points, and the scales of both."""

    model: nn.Module
    tokenizer: Any
    dictionary: Dictionary
    point: HookPoint
    window: int
    most: int
    scales: Scales
    centre: Tensor
    """Mean of some rows, which the FVU is about, the same for every night [d]."""


def texts_of(packages: Sequence[str], cache: Path, most: int | None = None) -> list[str]:
    """Different texts of installed documentation in an order that is the same every time."""
    options = {"packages": list(packages), "min_chars": 200}
    documents, _ = open_source("documentation", options, cache)
    different = {hashlib.sha256(found.text.encode()).hexdigest(): found.text for found in documents}
    return [different[key] for key in sorted(different)][:most]


def headers(most: int | None = None) -> list[str]:
    """Beginnings of torch's C++ headers: a topic that documentation of Python does not have."""
    root = Path(torch.__file__).parent / "include"
    texts = [path.read_text(errors="ignore") for path in sorted(root.rglob("*.h"))]
    different = {hashlib.sha256(text.encode()).hexdigest(): text[:1500] for text in texts}
    return [different[key] for key in sorted(different) if len(different[key]) > 400][:most]


def open_subject(
    model: Path, dictionary: Path, hook: str, texts: Sequence[str], *, window: int, most: int
) -> Subject:
    """Load both; scales and centre come from the first texts.

    Texts are read in windows of `window` tokens, the first `most` tokens of each.
    """
    point = resolve(read_config(model), hook)
    layers = layers_needed([point])
    loaded = load_model(model, dtype=torch.float32, layers=layers, head=False)
    config = (dictionary / "config.json").read_bytes()
    found = from_files(config, (dictionary / "model.safetensors").read_bytes())
    assert isinstance(found, Dictionary)
    subject = Subject(
        loaded.model, loaded.tokenizer, found, point, window, most, Scales(1.0, 1.0), torch.zeros(1)
    )
    rows = torch.cat([x for _, x in _rows(subject, texts)])
    values = found.encode(rows).values
    centre = rows.mean(0)
    norm = float((rows - centre).square().sum(1).mean())
    activation = float(values[values > 0].mean())
    return subject._replace(scales=Scales(activation, norm), centre=centre)


@torch.no_grad()
def documents_of(subject: Subject, texts: Sequence[str]) -> Documents:
    """The sums of every text, one document each."""
    found: list[Documents] = []
    totals = _Keeping(subject.dictionary.num_latents, subject.scales)
    part = NightPart(subject.dictionary.num_latents, subject.scales)
    part.totals = totals
    for places, x in _rows(subject, texts):
        latents, x_hat = subject.dictionary.reconstruct(x)
        part.add(
            latents.values.numpy(), latents.indices.numpy(), places.numpy(),
            errors=(x - x_hat).square().sum(1).numpy(),
            norms=(x - subject.centre).square().sum(1).numpy(),
        )  # fmt: skip
    found = [*totals.kept, part.first, part.last]
    order = np.argsort(np.concatenate([part.ids for part in found]), kind="stable")
    return take(_joined(found), order)


def night_of(documents: Documents, places: NDArray[Any], like: Totals) -> Totals:
    """The totals of some of the documents."""
    night = Totals(like.num_latents, like.scales)
    night.add(take(documents, places))
    return night


def take(documents: Documents, places: NDArray[Any]) -> Documents:
    """The documents at some places, in that order."""
    starts, lengths = documents.offsets[places], np.diff(documents.offsets)[places]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    entries = np.repeat(starts - offsets[:-1], lengths) + np.arange(offsets[-1])
    ids, tokens, errors, norms = (column[places] for column in documents.columns())
    latents, firings, activations = (column[entries] for column in documents.entries())
    return Documents(ids, tokens, errors, norms, offsets, latents, firings, activations)


def without_direction(
    decoder: Any, direction: Tensor, layers: int | None = None, *, amount: float = 1.0
) -> None:
    """Take a share of a direction [d] out of all that writes to the residual stream, in place.

    `decoder` is a Llama; its first `layers` are changed, all without it.
    """
    direction = torch.nn.functional.normalize(direction, dim=0)
    written = [decoder.embed_tokens.weight.T]
    for block in decoder.layers[:layers]:
        written += [block.self_attn.o_proj.weight, block.mlp.down_proj.weight]
    with torch.no_grad():
        for weight in written:
            weight -= amount * torch.outer(direction, direction @ weight)


class _Keeping(Totals):
    """Keeps whole documents instead of adding them up."""

    def __init__(self, num_latents: int, scales: Scales) -> None:
        super().__init__(num_latents, scales)
        self.kept: list[Documents] = []

    def add(self, documents: Documents) -> None:
        self.kept.append(documents)


@torch.no_grad()
def _rows(subject: Subject, texts: Sequence[str]) -> Iterator[tuple[Tensor, Tensor]]:
    """Documents and activations of some texts' tokens, in order; first positions are left out."""
    tokenizer, length = subject.tokenizer, subject.window
    for start in range(0, len(texts), _WINDOWS):
        ids = tokenizer(list(texts[start : start + _WINDOWS]), add_special_tokens=False)
        windows = [
            (start + place, row[at : at + length])
            for place, row in enumerate(ids["input_ids"])
            for at in range(0, min(len(row), subject.most), length)
        ]
        kept = [(place, row) for place, row in windows if len(row) > 1]
        padded = torch.zeros(len(kept), length, dtype=torch.long)
        mask = torch.zeros(len(kept), length, dtype=torch.bool)
        for number, (_, row) in enumerate(kept):
            padded[number, : len(row)] = torch.tensor(row)
            mask[number, 1 : len(row)] = True
        with Capture(subject.model, [subject.point]) as capture:
            # Padding comes after the text, where causal attention does not see it.
            x = torch.cat(
                [
                    capture({"input_ids": part, "use_cache": False})[subject.point.name].clone()
                    for part in padded.split(_WINDOWS)
                ]
            )
        places = torch.tensor([place for place, _ in kept])[:, None].expand_as(mask)
        yield places[mask], x[mask].float()


def _joined(parts: Sequence[Documents]) -> Documents:
    columns = [np.concatenate(both) for both in zip(*(p.columns() for p in parts), strict=True)]
    entries = [np.concatenate(both) for both in zip(*(p.entries() for p in parts), strict=True)]
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids, tokens, errors, norms = columns
    latents, firings, activations = entries
    return Documents(ids, tokens, errors, norms, offsets, latents, firings, activations)
