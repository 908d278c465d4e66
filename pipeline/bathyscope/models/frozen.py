"""A model whose attention patterns and norm scales are constants.

Between what MLPs write, such a forward is affine: what a residual stream gives to a later one goes
through values and output projections of attention, with the patterns of this forward, and through
norms that divide by the scales of this forward. Attribution graphs are taken in it.

Flows in: a model of transformers. Inside the block of `frozen` they are constants to gradients, and
values stay what they are. Inside that of `pinned` every row of a batch has those of the first row:
the same thing without gradients, so that one can be checked by the other.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bathyscope.errors import ModelError
from bathyscope.models.capture import first_argument
from bathyscope.models.hook_points import HookPoint

_FROZEN, _PINNED = "bathyscope_frozen", "bathyscope_pinned"
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """Gradients take attention patterns and norm scales as constants while the block lasts.

    Attention runs in its eager form, whose gradients can be batched. Raises `ModelError` for
    attention that cannot be taken apart, and in a forward for a norm that is none of the known.
    """
    with _held(model, _FROZEN):
        yield model


@contextmanager
def pinned(model: nn.Module) -> Iterator[nn.Module]:
    """All rows of a batch [b, P] take the patterns and scales of row 0 while the block lasts.

    Raises what `frozen` raises.
    """
    with _held(model, _PINNED):
        yield model


@contextmanager
def _held(model: nn.Module, how: str) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(_held_attention(model, how))
        for path, module in model.named_modules():
            if is_norm(module):
                hook = module.register_forward_hook(_norm_hook(path, how), with_kwargs=True)
                stack.callback(hook.remove)
        yield


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a LayerNorm or an RMSNorm, of torch or of a model family."""
    name = type(module).__name__
    return name.endswith(("RMSNorm", "LayerNorm"))


def frozen_norm(
    module: nn.Module, x: Tensor, y: Tensor, path: str = "", *, rows: int | None = None
) -> Tensor:
    """The norm of x, which it gave as y, with its scale a constant to gradients.

    The scale is that of the first `rows` rows of a batch, 1 or all. The gain of some families is
    stored as its difference from 1; which it is shows in y. Raises `ModelError` where no known
    norm gives y.
    """
    eps = _epsilon(module)
    wide = torch.promote_types(x.dtype, torch.float32)
    centred = x.to(wide)
    if not type(module).__name__.endswith("RMSNorm"):
        centred = centred - centred.mean(-1, keepdim=True)
    scale = (centred[:rows].detach().pow(2).mean(-1, keepdim=True) + eps).rsqrt()
    divided = centred * scale
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    for gain in (weight, None if weight is None else weight + 1):
        found = divided if gain is None else divided * gain.to(wide)
        found = found if bias is None else found + bias.to(wide)
        if _close(found[:rows].detach(), y[:rows].detach()):
            return found.to(y.dtype)
    raise ModelError(
        f"The norm {path!r} ({type(module).__name__}) gives something else than (x - mean) / "
        "deviation or x / root mean square, times a gain, plus a bias. Its scale cannot be frozen, "
        "so this model has no attribution graph."
    )


def _epsilon(module: nn.Module) -> float:
    for name in ("eps", "variance_epsilon", "epsilon"):
        value = getattr(module, name, None)
        if isinstance(value, float):
            return value
    return 0.0


def _close(found: Tensor, wanted: Tensor) -> bool:
    size = float(wanted.abs().max()) if wanted.numel() else 0.0
    difference = float((found - wanted).abs().max()) if wanted.numel() else 0.0
    return difference <= _TOLERANCE.get(wanted.dtype, 1e-4) * max(size, 1e-30)


def _norm_hook(path: str, how: str) -> Callable[..., Any]:
    point = HookPoint(path, path, "in", None)

    def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], y: Tensor) -> Any:
        if how == _FROZEN and not torch.is_grad_enabled():
            return y
        x = first_argument(point, args, kwargs)[1]
        return frozen_norm(module, x, y, path, rows=1 if how == _PINNED else None)

    return after


def _hold(tensor: Tensor, how: str) -> Tensor:
    """Queries or keys as constants, or those of the first row for all."""
    return tensor.detach() if how == _FROZEN else tensor[:1].expand_as(tensor)


@contextmanager
def _held_attention(model: nn.Module, how: str) -> Iterator[None]:
    if getattr(model, "_supports_attention_backend", False):
        with _through_interface(model, how):
            yield
        return
    projections = [
        module
        for path, module in model.named_modules()
        if path.endswith((".q_proj", ".k_proj")) and isinstance(module, nn.Linear)
    ]
    if not projections:
        raise ModelError(
            f"{type(model).__name__} neither takes an attention function from outside nor has "
            "modules q_proj and k_proj, so its patterns cannot be frozen. Attribution graphs need "
            "a decoder of the table of families."
        )
    handles = [p.register_forward_hook(lambda _, __, y: _hold(y, how)) for p in projections]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _through_interface(model: Any, how: str) -> Iterator[None]:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    AttentionInterface.register(how, _attention(how))
    AttentionMaskInterface.register(how, ALL_MASK_ATTENTION_FUNCTIONS["eager"])
    before = model.config._attn_implementation
    model.set_attn_implementation(how)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def _attention(how: str) -> Callable[..., Any]:
    def attention(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """The family's own eager attention."""
        eager = sys.modules[type(module).__module__].eager_attention_forward
        return eager(module, _hold(query, how), _hold(key, how), value, *args, **kwargs)

    return attention
