"""One training step of a dictionary: loss, gradients, Adam, decoder norms, dead latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from bathyscope.dictionaries.activation_function import MOST_ENTRIES
from bathyscope.dictionaries.jumprelu import JumpReLU
from bathyscope.dictionaries.kinds import AnyDictionary
from bathyscope.errors import ConfigError, NonFiniteError
from bathyscope.training.gradients import Gradients, Terms
from bathyscope.training.mesh import Mesh, Single
from bathyscope.training.resampling import Rows, resample
from bathyscope.training.sparsity import Sparsity
from bathyscope.values import Json
from bathyscope_kernels import RowSparseAdam, TooManyEntries

Result = TypeVar("Result")

UNIT, FREE = "unit", "free"
_THRESHOLD_RATE = 10.0
DECODER_NORMS = (UNIT, FREE)


@dataclass(frozen=True)
class StepSettings:
    """What a step does beside reconstructing."""

    auxk_weight: float
    dead_after_tokens: int
    """A latent is dead when it has not fired for so many training tokens."""
    decoder_norm: str = UNIT
    """`unit`: rows are set to unit norm after each step; `free`: they are left alone."""
    l0_weight: float = 1.0
    """Weight of (L0 / k - 1)², for kinds that train L0."""
    l1_weight: float = 0.0
    """Weight of the L1 penalty, for kinds that have one; 0 lets it follow L0."""
    preact_weight: float = 0.0
    """Weight of the pre-activation loss of dead latents (JumpReLU)."""
    resample_steps: tuple[int, ...] = ()
    """Dead latents start anew after so many steps."""
    seed: int = 0
    """Of what resampling draws."""
    clip_norm: float = 0.0
    """Gradients of all weights together are scaled down to this norm; 0 never does."""
    reconstruction_weight: float = 1.0
    """Weight of the fraction of variance unexplained."""


class State(NamedTuple):
    """What a training goes on from."""

    tensors: dict[str, Tensor]
    """Weights, `exp_avg/…` and `exp_avg_sq/…` of Adam, and `silent/…` of each part."""
    facts: Json
    """Numbers, as JSON."""


class StepFigures(NamedTuple):
    """What a step measured on its batch, before its update."""

    loss: float
    fvu: float
    auxk: float
    l0: float
    dead_share: float
    lr: float
    sparsity: float = 0.0


class Step:
    """Holds the optimiser and the counts of silent tokens; `step(x)` does one step.

    Raises `ConfigError` when `dead_after_tokens` is below 1: every latent would be dead from the
    start.
    """

    def __init__(
        self,
        dictionary: AnyDictionary,
        settings: StepSettings,
        *,
        lr: float,
        mesh: Mesh | None = None,
    ) -> None:
        if settings.dead_after_tokens < 1:
            raise ConfigError(
                f"A latent would be dead after {settings.dead_after_tokens} silent tokens; at "
                "least 1 is wanted. Raise train.dead_after_epochs."
            )
        if settings.decoder_norm not in DECODER_NORMS:
            raise ConfigError(
                f"train.decoder_norm is {settings.decoder_norm!r}. Choose one of "
                f"{', '.join(DECODER_NORMS)}."
            )
        self.dictionary = dictionary
        self.settings = settings
        self.mesh = mesh or Single()
        unit_rows = settings.decoder_norm == UNIT
        self.sparsity = Sparsity(
            dictionary,
            l0_weight=settings.l0_weight,
            l1_weight=settings.l1_weight,
            unit_rows=unit_rows,
        )
        if settings.preact_weight and dictionary.parts[0].activation.name != JumpReLU.name:
            raise ConfigError(
                f"train.preact_weight is {settings.preact_weight}, and latents of "
                f"{dictionary.parts[0].activation.name} have no thresholds of their own. Set it to "
                "0, or choose dictionary.activation=jumprelu."
            )
        self._gradients = Gradients(
            dictionary,
            self.sparsity,
            self.mesh,
            auxk_weight=settings.auxk_weight,
            preact_weight=settings.preact_weight,
            reconstruction_weight=settings.reconstruction_weight,
            unit_rows=unit_rows,
        )
        self._passes, self._done = 1, 0
        self.optimizer = _optimizer(dictionary, lr, unit_rows)
        device = dictionary.parts[0].W_enc.device
        self.silent_tokens = [
            torch.zeros(part.num_latents, dtype=torch.int64, device=device)
            for part in dictionary.parts
        ]
        """Tokens since each latent fired, for each part."""

    def set_lr(self, lr: float) -> None:
        """The learning rate from the next step on."""
        for group in self.optimizer.param_groups:
            relative_to = group["relative_to"]
            group["lr"] = lr if relative_to is None else lr * _THRESHOLD_RATE * relative_to.spread

    def state(self) -> State:
        """All that the next step follows from, beside its rows and rate. Tensors are not copied."""
        tensors: dict[str, Tensor] = dict(self.dictionary.state_dict())
        counts: Json = {}
        for name, parameter in self.dictionary.named_parameters():
            moments = self.optimizer.state.get(parameter)
            if moments:
                tensors[f"exp_avg/{name}"] = moments["exp_avg"]
                tensors[f"exp_avg_sq/{name}"] = moments["exp_avg_sq"]
                counts[name] = int(moments["step"])
        for number, silent in enumerate(self.silent_tokens):
            tensors[f"silent/{number}"] = silent
        functions = [part.activation.training_state() for part in self.dictionary.parts]
        facts: Json = {
            "adam_steps": counts,
            "sparsity": self.sparsity.state(),
            "passes": self._passes,
            "steps": self._done,
            "activations": functions,
        }
        return State(tensors, facts)

    @torch.no_grad()
    def load(self, state: State) -> None:
        """Go on from a state of a dictionary of the same shape."""
        device = self.silent_tokens[0].device
        own = self.dictionary.state_dict()
        for name, tensor in own.items():
            tensor.copy_(state.tensors[name])
        for name, parameter in self.dictionary.named_parameters():
            if name in state.facts["adam_steps"]:
                self.optimizer.state[parameter] = {
                    "step": torch.tensor(float(state.facts["adam_steps"][name])),
                    "exp_avg": state.tensors[f"exp_avg/{name}"].to(parameter),
                    "exp_avg_sq": state.tensors[f"exp_avg_sq/{name}"].to(parameter),
                }
        for number, silent in enumerate(self.silent_tokens):
            silent.copy_(state.tensors[f"silent/{number}"].to(device))
        self.sparsity.load(state.facts["sparsity"])
        self._passes, self._done = int(state.facts["passes"]), int(state.facts["steps"])
        for part, facts in zip(self.dictionary.parts, state.facts["activations"], strict=True):
            part.activation.load_training_state(facts)

    @property
    def dead(self) -> tuple[Tensor, ...]:
        """Numbers of the latents of each part that count as dead now, sorted, int64."""
        limit = self.settings.dead_after_tokens
        return tuple(torch.nonzero(silent >= limit).flatten() for silent in self.silent_tokens)

    def measure(self, x: Tensor) -> Terms:
        """What a step on rows x [rows, d_in] would measure; no weight changes."""
        terms = self._find_gradients(x, x)
        self.optimizer.zero_grad()
        return terms

    def reconstruct(self, x: Tensor) -> Tensor:
        """ŷ [rows, d_out] of rows x as a step on them makes it, without gradient."""
        return self._in_passes(len(x), lambda passes: self._gradients.reconstruct(x, passes))

    def step(
        self, x: Tensor, y: Tensor | None = None, *, pull: Tensor | None = None
    ) -> StepFigures:
        """Train on rows x [rows, d_in] and what they are to become, y [rows, d_out], x by default.

        `pull` [rows, d_out] is the gradient at ŷ of another loss, which is not in the figures.
        Raises `NonFiniteError` when the loss is NaN or infinite, before weights are touched.
        """
        x = x.to(self.silent_tokens[0].device)
        y = x if y is None else y.to(x.device)
        terms = self._find_gradients(x, y, pull)
        if not torch.isfinite(torch.tensor(terms.loss)):
            self.optimizer.zero_grad()
            raise NonFiniteError(
                f"The training loss became {terms.loss} (FVU {terms.fvu}, AuxK {terms.auxk}). "
                "Lower train.lr, or look for extreme rows in the activations."
            )
        if self.settings.clip_norm:
            self._clip()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._after(terms)
        if self._done in self.settings.resample_steps:
            self._resample(x, y)
        return StepFigures(
            loss=terms.loss,
            fvu=terms.fvu,
            auxk=terms.auxk,
            l0=terms.l0,
            dead_share=self._dead_share(),
            lr=self.optimizer.param_groups[0]["lr"],
            sparsity=terms.sparsity,
        )

    def _find_gradients(self, x: Tensor, y: Tensor, pull: Tensor | None = None) -> Terms:
        """Gradients of the batch, in as many passes over its rows as their latents need."""
        revives = self.settings.auxk_weight or self.settings.preact_weight
        dead = self.dead if revives else ()
        terms = self._in_passes(
            len(x), lambda passes: self._gradients.find(x, y, dead, passes, pull)
        )
        if 4 * terms.entries < MOST_ENTRIES * self._passes:
            self._passes = max(1, self._passes // 2)
        return terms

    def _in_passes(self, num_rows: int, call: Callable[[int], Result]) -> Result:
        """What it returns for as many passes over the rows as their latents need."""
        while True:
            try:
                return call(self._passes)
            except TooManyEntries:
                splits = all(part.activation.passes for part in self.dictionary.parts)
                if not splits or self._passes >= num_rows:
                    raise
                self.optimizer.zero_grad()
                self._passes *= 2

    def _clip(self) -> None:
        norms = self.mesh.sum_latents(self._squared_norm(split=True)) + self._squared_norm(
            split=False
        )
        scale = self.settings.clip_norm / norms.sqrt().clamp_min(self.settings.clip_norm)
        for parameter in self.dictionary.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(scale.to(parameter.grad.dtype))

    def _squared_norm(self, *, split: bool) -> Tensor:
        """Of the gradients of weights that belong to latents, or of those that belong to none."""
        total = self.silent_tokens[0].new_zeros((), dtype=torch.float64)
        for name, parameter in self.dictionary.named_parameters():
            if parameter.grad is None or (name in ("b_dec", "W_skip")) == split:
                continue
            if parameter.grad.is_sparse:
                parameter.grad = parameter.grad.coalesce()
                total += parameter.grad.values().double().square().sum()
            else:
                total += parameter.grad.double().square().sum()
        return total

    @torch.no_grad()
    def _after(self, terms: Terms) -> None:
        self._done += 1
        self.sparsity.after(terms.l0)
        for part in self.dictionary.parts:
            if isinstance(part.activation, JumpReLU):
                # Below zero it would let negative latents through, which no file format means.
                part.activation.threshold.clamp_min_(0)
        for silent, fired in zip(self.silent_tokens, terms.fired, strict=True):
            silent += terms.num_rows
            silent[fired] = 0

    def _resample(self, x: Tensor, y: Tensor) -> None:
        rows = Rows(x, y, self._gradients.errors(x, y, self._passes))
        settings, step = self.settings, self._done
        dead, mesh = self.dead, self.mesh
        anew = resample(
            self.dictionary, self.optimizer, rows, dead, mesh, seed=settings.seed, step=step
        )
        for silent, latents in zip(self.silent_tokens, anew, strict=True):
            silent[latents] = 0

    def _dead_share(self) -> float:
        counts = torch.tensor(
            [sum(len(dead) for dead in self.dead), sum(len(s) for s in self.silent_tokens)],
            dtype=torch.float64,
            device=self.silent_tokens[0].device,
        )
        dead, latents = self.mesh.sum_latents(counts).tolist()
        return dead / latents


def _optimizer(dictionary: AnyDictionary, lr: float, unit_rows: bool) -> RowSparseAdam:
    """Adam, with the decoders' rows set to unit norm in the pass that updates them.

    Thresholds are as large as pre-activations, so their rate is relative to those; and their
    gradient changes its sign when L0 passes k, so what it was long ago must not hold them.
    """
    decoders = [part.W_dec for part in dictionary.parts]
    groups: list[dict[str, Any]] = [{"params": decoders, "unit_rows": unit_rows}]
    apart = {id(decoder) for decoder in decoders}
    for part in dictionary.parts:
        if isinstance(part.activation, JumpReLU):
            threshold = part.activation.threshold
            groups.append(
                {"params": [threshold], "betas": (0.0, 0.99), "relative_to": part.activation}
            )
            apart.add(id(threshold))
    others = [p for p in dictionary.parameters() if id(p) not in apart]
    groups.append({"params": others})
    return RowSparseAdam([{"relative_to": None, **group} for group in groups], lr=lr)
