"""Pairs of prompts: a clean one, and a corrupted one that differs in what is asked about.

Flows in: token ids or texts, and the answers that a metric compares. Flows out: padded inputs of
the model, and the positions that mean the same in both prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from bathyscope.errors import ConfigError
from bathyscope.models.capture import Inputs

Align = Literal["equal", "left", "right"]
"""Which ends of two prompts of different lengths belong together."""


@dataclass(frozen=True)
class Pairs:
    """A batch of pairs as a model takes them. Rows of all tensors are pairs."""

    clean: Inputs
    corrupted: Inputs
    keep: Tensor
    """bool [pairs, positions]: positions that hold a token in both prompts of a pair."""
    last: Tensor
    """int64 [pairs]: the last position of the clean prompt, whose prediction metrics look at."""
    answers: Tensor | None = None
    """int64 [pairs]: the token that the clean prompt asks for."""
    wrong: Tensor | None = None
    """int64 [pairs]: the token that the corrupted prompt asks for."""

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.keep)

    @property
    def positions(self) -> int:
        """Positions of the padded prompts."""
        return int(self.keep.shape[1])

    def swapped(self) -> Pairs:
        """The corrupted prompts as clean ones, so that scores say what restores an answer."""
        return replace(
            self, clean=self.corrupted, corrupted=self.clean, answers=self.wrong, wrong=self.answers
        )

    def to(self, device: torch.device | str) -> Pairs:
        """The same on another device."""
        moved = {
            name: _move(value, device) for name, value in vars(self).items() if value is not None
        }
        return replace(self, **moved)

    @classmethod
    def of_tokens(
        cls,
        clean: Sequence[Sequence[int]],
        corrupted: Sequence[Sequence[int]],
        *,
        answers: Sequence[int] | None = None,
        wrong: Sequence[int] | None = None,
        align: Align = "equal",
    ) -> Pairs:
        """Pairs of token ids.

        The prompts of a pair must have equal length, unless `align` says which ends belong
        together: `left` puts first tokens at one position and pads at the end; `right` puts last
        tokens at one position and pads at the start. Positions that one of the two lacks are no
        nodes and stay as they are. Raises ConfigError for no pairs, an empty prompt, or lengths
        that differ.
        """
        _check(clean, corrupted, answers, wrong, align)
        length = max(map(len, [*clean, *corrupted]))
        a, b = (_padded(side, length, at_start=align == "right") for side in (clean, corrupted))
        (clean_inputs, clean_mask), (corrupted_inputs, corrupted_mask) = a, b
        numbers = torch.arange(length).expand_as(clean_mask)
        return cls(
            clean_inputs,
            corrupted_inputs,
            keep=clean_mask & corrupted_mask,
            last=numbers.masked_fill(~clean_mask, -1).amax(1),
            answers=None if answers is None else torch.tensor(answers),
            wrong=None if wrong is None else torch.tensor(wrong),
        )

    @classmethod
    def of_texts(
        cls,
        tokenizer: Any,
        clean: Sequence[str],
        corrupted: Sequence[str],
        *,
        answers: Sequence[str] | None = None,
        wrong: Sequence[str] | None = None,
        align: Align = "equal",
        special_tokens: bool = True,
    ) -> Pairs:
        """Pairs of texts. An answer is a text of one token, such as ' Paris'.

        Raises what `of_tokens` raises, and ConfigError for an answer of several tokens.
        """
        sides = [
            [tokenizer.encode(text, add_special_tokens=special_tokens) for text in side]
            for side in (clean, corrupted)
        ]
        words = [
            None if w is None else [_one_token(tokenizer, x) for x in w] for w in (answers, wrong)
        ]
        return cls.of_tokens(sides[0], sides[1], answers=words[0], wrong=words[1], align=align)


def repeated(inputs: Inputs, groups: int) -> Inputs:
    """The whole batch `groups` times, one copy after another."""
    if isinstance(inputs, Tensor):
        return inputs.repeat(groups, *[1] * (inputs.ndim - 1))
    return {
        name: value.repeat(groups, *[1] * (value.ndim - 1)) if isinstance(value, Tensor) else value
        for name, value in inputs.items()
    }


def _move(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Mapping):
        return {name: _move(v, device) for name, v in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value


def _padded(
    prompts: Sequence[Sequence[int]], length: int, *, at_start: bool
) -> tuple[dict[str, Any], Tensor]:
    tokens = torch.zeros(len(prompts), length, dtype=torch.int64)
    mask = torch.zeros(len(prompts), length, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        where = slice(length - len(prompt), None) if at_start else slice(0, len(prompt))
        tokens[row, where] = torch.tensor(prompt)
        mask[row, where] = True
    inputs: dict[str, Any] = {"input_ids": tokens, "use_cache": False}
    if at_start and not bool(mask.all()):
        # What stands at the end of a causal model changes nothing before it, and needs no mask.
        inputs["attention_mask"] = mask.long()
        inputs["position_ids"] = (mask.long().cumsum(1) - 1).clamp_min(0)
    return inputs, mask


def _one_token(tokenizer: Any, text: str) -> int:
    ids = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) != 1:
        pieces = tokenizer.convert_ids_to_tokens(ids)
        raise ConfigError(
            f"The answer {text!r} is {len(ids)} tokens ({pieces}); wanted one. Give another "
            f"answer, or its first token as a number to `Pairs.of_tokens`."
        )
    return int(ids[0])


def _check(
    clean: Sequence[Sequence[int]],
    corrupted: Sequence[Sequence[int]],
    answers: Sequence[int] | None,
    wrong: Sequence[int] | None,
    align: str,
) -> None:
    if align not in ("equal", "left", "right"):
        raise ConfigError(f"align is {align!r}. Choose one of equal, left, right.")
    counts = {
        "clean prompts": len(clean), "corrupted prompts": len(corrupted),
        "answers": len(clean) if answers is None else len(answers),
        "wrong answers": len(clean) if wrong is None else len(wrong),
    }  # fmt: skip
    if not clean or len(set(counts.values())) > 1:
        got = ", ".join(f"{number} {name}" for name, number in counts.items())
        raise ConfigError(f"Got {got}; wanted at least one pair, and one of each for every pair.")
    for number, (a, b) in enumerate(zip(clean, corrupted, strict=True)):
        if not a or not b:
            raise ConfigError(f"A prompt of pair {number} has no tokens.")
        if len(a) != len(b) and align == "equal":
            raise ConfigError(
                f"Pair {number} has {len(a)} tokens in its clean prompt and {len(b)} in the other, "
                "so their positions do not mean the same. Reword one of them, or set align='right' "
                "where the ends belong together, or align='left' where the starts do: positions "
                "that only one prompt has are then left as they are."
            )
