"""Which weights of a model can be removed, each as a matrix [out, in].

Prunable are the weights of Linear, Conv2d and transformers' Conv1D. Embeddings, and the head that
turns the last stream into logits, are counted apart: their share of a model falls with its size, so
a figure that holds both would compare sizes and not redundancy.

Flows in: any torch module. Flows out: its prunable weights, counts of its parameters, and what was
left out. Weights that are packed, on no device, or made anew in each forward are refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bathyscope.errors import ModelError
from bathyscope.models.families import family_of

_PLAIN = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class PrunableWeight:
    """A weight as a matrix: row i makes output i, columns are inputs.

    In a grouped convolution the rows fall into `groups` equal runs, and each run has inputs of its
    own; a depthwise convolution has as many groups as channels. The columns of a convolution are
    those of a patch: channels of the group x kernel height x kernel width.
    """

    path: str
    """Of the module."""
    parameter: nn.Parameter
    kind: str
    """`linear`, `conv1d` (transformers', stored [in, out]) or `conv2d`."""
    groups: int
    block: int | None
    """Number of the block that holds it; None outside of blocks, and in a model of no family."""

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of the matrix."""
        rows, columns = self._matrix().shape
        return int(rows), int(columns)

    def read(self) -> Tensor:
        """A copy [out, in] in the parameter's dtype, on its device."""
        return self._matrix().clone(memory_format=torch.contiguous_format)

    @torch.no_grad()
    def write(self, matrix: Tensor) -> None:
        """Put a matrix [out, in] in the weight's place, cast to its dtype and device."""
        assert tuple(matrix.shape) == self.shape, (tuple(matrix.shape), self.shape)
        turned = matrix.t() if self.kind == "conv1d" else matrix
        self.parameter.copy_(turned.reshape(self.parameter.shape))

    def _matrix(self) -> Tensor:
        weight = self.parameter.detach()
        return weight.t() if self.kind == "conv1d" else weight.reshape(weight.shape[0], -1)


class ParameterCounts(NamedTuple):
    """Parameters of a model, each tensor counted once, however many modules share it."""

    embedding: int
    """Embeddings and the head."""
    prunable: int
    other: int
    """Biases, norms, and matrices in modules of other kinds."""

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self)


@dataclass(frozen=True)
class Prunable:
    """What can be removed from a model, and what cannot."""

    weights: tuple[PrunableWeight, ...]
    """In the order of the model's modules; blocks in theirs."""
    counts: ParameterCounts
    left_out: tuple[str, ...]
    """Parameters of two or more dimensions among the others, such as joined experts."""


def prunable(model: nn.Module, *, heads: Collection[str] = ()) -> Prunable:
    """The prunable weights of a model and the counts of its parameters.

    The head is known for transformers' models; `heads` names modules to count as one in others,
    such as the last layer of a classifier. Raises ModelError for weights that are packed, meta or
    parametrised, and for a model without prunable weights.
    """
    modules = dict(model.named_modules())
    unknown = sorted(set(heads) - set(modules))
    if unknown:
        raise ModelError(f"heads names {', '.join(unknown)}, which {_name(model)} does not hold.")
    _check_not_packed(model)
    apart = {id(p) for module in _apart(model, heads) for p in module.parameters()}
    found: dict[int, PrunableWeight] = {}
    for path, module in modules.items():
        kind = _kind(module)
        if kind is None or id(module._parameters.get("weight")) in apart:
            continue
        parameter = _plain_weight(path, module)
        groups = int(module.groups) if isinstance(module, nn.Conv2d) else 1
        made = PrunableWeight(path, parameter, kind, groups, _block_of(model, path))
        found.setdefault(id(parameter), made)
    if not found:
        raise ModelError(
            f"{_name(model)} has no weight to remove: no Linear, Conv1D or Conv2d beside its "
            "embeddings and head."
        )
    parameters = list(model.named_parameters())
    others = [(n, p) for n, p in parameters if id(p) not in apart and id(p) not in found]
    counts = ParameterCounts(
        embedding=sum(p.numel() for _, p in parameters if id(p) in apart),
        prunable=sum(p.numel() for _, p in parameters if id(p) in found),
        other=sum(p.numel() for _, p in others),
    )
    left_out = tuple(name for name, p in others if p.dim() > 1)
    return Prunable(tuple(found.values()), counts, left_out)


def _kind(module: nn.Module) -> str | None:
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, nn.Conv2d):
        return "conv2d"
    # By name: models of transformers are the only ones that have it.
    return "conv1d" if type(module).__name__ == "Conv1D" and hasattr(module, "nf") else None


def _apart(model: nn.Module, heads: Collection[str]) -> Iterator[nn.Module]:
    """Modules whose parameters are embeddings or the head."""
    yield from (module for module in model.modules() if isinstance(module, nn.Embedding))
    yield from (model.get_submodule(path) for path in heads)
    family = family_of(getattr(model, "config", None))
    modules = dict(model.named_modules())
    if family is not None and family.embedding in modules:
        yield modules[family.embedding]
    output = getattr(model, "get_output_embeddings", lambda: None)()
    if output is None and family is not None:
        output = modules.get(family.unembedding or "")
    if isinstance(output, nn.Module):
        yield output


def _block_of(model: nn.Module, path: str) -> int | None:
    family = family_of(getattr(model, "config", None))
    if family is None or not path.startswith(f"{family.blocks}."):
        return None
    number = path.removeprefix(f"{family.blocks}.").partition(".")[0]
    return int(number) if number.isdecimal() else None


def _check_not_packed(model: nn.Module) -> None:
    packed = [
        path
        for path, module in model.named_modules()
        if hasattr(module, "qweight") or hasattr(module, "_packed_params")
    ]
    config: Any = getattr(model, "config", None)
    if packed or getattr(config, "quantization_config", None) is not None:
        where = f", for instance in {packed[0]!r}" if packed else ""
        raise ModelError(
            f"{_name(model)} holds quantised weights{where}: nothing can be removed from them, and "
            "much is gone already. Use the checkpoint in float32, float16 or bfloat16."
        )


def _plain_weight(path: str, module: nn.Module) -> nn.Parameter:
    """The weight of a module, or a ModelError that says why it cannot be changed in place."""
    weight = module._parameters.get("weight")
    if weight is None or parametrize.is_parametrized(module, "weight"):
        raise ModelError(
            f"The weight of {path!r} is made anew in each forward (weight norm, a parametrisation, "
            "an adapter), so changing it would do nothing. Merge it into a plain parameter first."
        )
    if weight.is_meta:
        raise ModelError(
            f"The weight of {path!r} has no data: it is on the meta device, as offloaded weights "
            "are. Load the model without offloading."
        )
    if type(weight.data) is not Tensor or weight.dtype not in _PLAIN:
        raise ModelError(
            f"The weight of {path!r} is a {type(weight.data).__name__} of {weight.dtype}. Wanted a "
            "plain tensor in float64, float32, float16 or bfloat16: packed and sharded weights "
            "cannot be changed one by one."
        )
    return weight


def _name(model: nn.Module) -> str:
    return type(model).__name__
