"""Capture: the tensors at several hook points of one forward.

Flows in: a model, hook points, one batch of inputs. Flows out: name -> tensor, on the device where
the model computed it. The forward ends as soon as every point has been seen, so nothing after the
last one is computed. Works below accelerate's hooks: only what modules receive and return is read,
never a weight, because an offloaded weight is on the meta device when a hook runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bathyscope.errors import HookPointError
from bathyscope.models.hook_points import HookPoint, resolve

Inputs = Tensor | Mapping[str, Any]
"""One positional tensor (token ids, images), or keyword arguments of the model's forward."""


class StopForward(Exception):
    """A signal, no error: every tensor has been seen. Raised in a hook, caught by `Capture`."""


class Capture:
    """Holds hooks on a model while the `with` block lasts; each call runs one forward.

    `copy=True` clones every tensor when it is seen, for models that change tensors in place.
    """

    def __init__(
        self,
        model: nn.Module,
        hook_points: Sequence[HookPoint | str],
        *,
        stop: bool = True,
        copy: bool = False,
    ) -> None:
        points = [resolve(model, p) if isinstance(p, str) else p for p in hook_points]
        names = [point.name for point in points]
        if not points or len(set(names)) != len(names):
            raise HookPointError(f"Capture needs one or more different hook points, got {names}.")
        self._model = model
        self._points = points
        self._stop = stop
        self._copy = copy
        self._handles: list[RemovableHandle] = []
        self._seen: dict[str, tuple[Tensor, int]] = {}

    def __enter__(self) -> Capture:
        try:
            for point in self._points:
                self._handles.append(self._register(point))
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._remove()

    def __call__(self, inputs: Inputs) -> dict[str, Tensor]:
        """One forward without gradients; name -> detached tensor [batch, positions, d].

        Raises HookPointError where a point is not reached, is reached twice, or holds no tensor,
        and where a later module has changed a captured tensor in place.
        """
        assert self._handles, "Capture is called inside its `with` block"
        self._seen = {}
        # Outside inference mode tensors count their changes, which `_unchanged` relies on.
        with torch.inference_mode(False), torch.no_grad(), contextlib.suppress(StopForward):
            run_forward(self._model, inputs)
        missing = [point.name for point in self._points if point.name not in self._seen]
        if missing:
            raise HookPointError(
                f"The forward did not reach {', '.join(missing)}: {type(self._model).__name__} ran "
                f"to its end. Does it skip that module for these inputs?"
            )
        seen, self._seen = self._seen, {}
        return {point.name: _unchanged(point.name, *seen[point.name]) for point in self._points}

    def _register(self, point: HookPoint) -> RemovableHandle:
        module = find_module(self._model, point)
        if point.side == "in":

            def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                self._see(point, first_argument(point, args, kwargs)[1])

            return module.register_forward_pre_hook(before, with_kwargs=True)

        def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._see(point, first_output(point, output))

        return module.register_forward_hook(after)

    def _see(self, point: HookPoint, tensor: Tensor) -> None:
        if point.name in self._seen:
            raise HookPointError(
                f"The module of {point.name} runs more than once in a forward, so its rows would "
                f"be ambiguous. Hook a module that runs once."
            )
        value = tensor.detach().clone() if self._copy else tensor.detach()
        self._seen[point.name] = (value, _version(value))
        if self._stop and len(self._seen) == len(self._points):
            raise StopForward

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []


def capture_batches(
    model: nn.Module,
    points: Sequence[HookPoint | str],
    batches: Iterable[Tensor],
    *,
    keyword: str | None = "input_ids",
) -> Iterator[dict[str, Tensor]]:
    """For each batch, the tensors at the hook points. Raises what `Capture` raises.

    `keyword` is how the model takes a batch: tokens as `input_ids`, images as `pixel_values`, or
    None where it is the first argument.
    """
    fixed: dict[str, Any] = {"use_cache": False} if keyword == "input_ids" else {}
    with Capture(model, points) as capture_one:
        for batch in batches:
            yield capture_one(batch if keyword is None else {keyword: batch, **fixed})


def capture(
    model: nn.Module,
    hook_points: Sequence[HookPoint | str],
    inputs: Inputs,
    *,
    copy: bool = False,
) -> dict[str, Tensor]:
    """Tensors at the hook points for one batch of inputs: name -> [batch, positions, d]."""
    with Capture(model, hook_points, copy=copy) as run:
        return run(inputs)


@contextlib.contextmanager
def observed(
    model: nn.Module, point: HookPoint, see: Callable[[Tensor], None]
) -> Iterator[nn.Module]:
    """Every forward in the block shows the tensor at the hook point to `see`, gradients and all.

    Nothing is changed, and nothing stops. Raises HookPointError where the module is not there.
    """
    module = find_module(model, point)
    if point.side == "in":

        def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            see(first_argument(point, args, kwargs)[1])

        handle = module.register_forward_pre_hook(before, with_kwargs=True)
    else:

        def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            see(first_output(point, output))

        handle = module.register_forward_hook(after)
    try:
        yield model
    finally:
        handle.remove()


def run_forward(model: nn.Module, inputs: Inputs) -> Any:
    """The model's own output for one positional tensor or for keyword arguments."""
    return model(inputs) if isinstance(inputs, Tensor) else model(**inputs)


def find_module(model: nn.Module, point: HookPoint) -> nn.Module:
    """The module of a hook point. Raises HookPointError if the model does not hold it."""
    try:
        return model.get_submodule(point.path)
    except AttributeError as error:
        raise HookPointError(
            f"{point.name} is the module {point.path!r}, which this {type(model).__name__} does "
            f"not hold. Was the model loaded with fewer layers?"
        ) from error


def first_argument(
    point: HookPoint, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[int | str, Tensor]:
    """Where a module's main input stands (position or keyword), and the tensor itself.

    It is the first positional argument, else `hidden_states`, else the first tensor keyword.
    """
    if args and isinstance(args[0], Tensor):
        return 0, args[0]
    keywords = ["hidden_states", *kwargs] if not args else []
    for keyword in keywords:
        if isinstance(kwargs.get(keyword), Tensor):
            return keyword, kwargs[keyword]
    raise HookPointError(f"{point.name} is called without a tensor, so its input is no hook point.")


def first_output(point: HookPoint, output: Any) -> Tensor:
    """The tensor that a module returns, or the first of its tuple."""
    value = output[0] if isinstance(output, tuple | list) and output else output
    if not isinstance(value, Tensor):
        raise HookPointError(
            f"{point.name} returns {type(value).__name__}, not a tensor or a tuple that starts "
            f"with one. Hook a module inside it."
        )
    return value


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def _unchanged(name: str, tensor: Tensor, version: int) -> Tensor:
    if _version(tensor) != version:
        raise HookPointError(
            f"{name} was changed in place by a later module after it was captured. "
            f"Capture with copy=True, or hook the module that changes it."
        )
    return tensor
