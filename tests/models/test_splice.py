"""A splice changes exactly what it says, and a restarted forward is the forward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bathyscope.errors import HookPointError
from bathyscope.models.capture import capture
from bathyscope.models.load import load_model
from bathyscope.models.splice import restart, spliced

PLACES = ["resid_pre.1", "resid_post.1", "attn_out.1", "mlp_in.1", "mlp_out.1"]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2"])
@pytest.mark.parametrize("name", PLACES)
def test_identity_changes_nothing(
    family: str, name: str, folders: dict[str, Path], plain: Any, ids: Tensor
) -> None:
    model = plain(folders[family])
    with torch.no_grad():
        wanted = model(ids).logits
        with spliced(model, name, lambda x: x.clone()):
            assert torch.equal(model(ids).logits, wanted)
        with spliced(model, name, lambda x: x + 1.0):
            assert not torch.allclose(model(ids).logits, wanted)
        assert torch.equal(model(ids).logits, wanted)


def test_zero_mlp_output_leaves_the_middle_of_the_stream(
    llama_folder: Path, plain: Any, ids: Tensor
) -> None:
    model = plain(llama_folder)
    middle = capture(model, ["resid_mid.2"], ids)["resid_mid.2"]
    with spliced(model, "mlp_out.2", torch.zeros_like):
        after = capture(model, ["resid_post.2"], ids)["resid_post.2"]
    assert torch.equal(after, middle)


def test_tuple_keeps_its_other_elements() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, str]:
            return x, "kept"

    model = nn.Sequential(Pair())
    with spliced(model, "0", lambda x: x * 2):
        value, other = model(torch.ones(3))
    assert (value.tolist(), other) == ([2.0, 2.0, 2.0], "kept")


def test_replacement_takes_the_dtype_and_keeps_gradients() -> None:
    model = nn.Sequential(nn.Identity(), nn.Identity())
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    with spliced(model, "0", lambda x: x.double() * scale):
        out = model(torch.tensor([1.0, 2.0]))
    assert out.dtype == torch.float32
    out.sum().backward()
    assert scale.grad is not None
    assert scale.grad.item() == 3.0


def test_splices_nest() -> None:
    model = nn.Sequential(nn.Identity(), nn.Identity())
    with spliced(model, "0", lambda x: x + 1), spliced(model, "1:in", lambda x: x * 10):
        assert model(torch.tensor([1.0])).item() == 20.0
    assert model(torch.tensor([1.0])).item() == 1.0


def test_hooks_are_removed_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    wanted = pytest.raises(HookPointError, match=r"returned \[1\]; wanted .* \[1, 2\]")
    with wanted, spliced(model, "0", lambda x: x[:, 0]):
        model(torch.ones(1, 2))
    assert not model[0]._forward_hooks


def test_the_middle_of_the_stream_cannot_be_spliced(llama_folder: Path, plain: Any) -> None:
    wanted = pytest.raises(HookPointError, match=r"Splice 'attn_out\.1' or 'resid_post\.1'")
    with wanted, spliced(plain(llama_folder), "resid_mid.1", torch.zeros_like):
        pass


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2"])
@pytest.mark.parametrize("first", [0, 1])
def test_restart_is_the_full_forward(
    family: str, first: int, folders: dict[str, Path], plain: Any, ids: Tensor
) -> None:
    model = plain(folders[family])
    total = model.config.num_hidden_layers
    attention = "eager" if family == "gemma2" else "sdpa"
    tail = load_model(
        folders[family], dtype=torch.float32, layers=(first, total), attention=attention
    ).model
    hidden = capture(model, [f"resid_pre.{first}"], ids)[f"resid_pre.{first}"]
    with torch.no_grad():
        assert torch.equal(restart(tail, hidden), model(ids).logits)


def test_restart_casts_and_masks(llama_folder: Path, plain: Any, ids: Tensor) -> None:
    model = plain(llama_folder)
    tail = load_model(llama_folder, dtype=torch.float32, layers=(2, 4)).model
    mask = torch.ones_like(ids)
    mask[0, 6:] = 0
    seen = capture(model, ["resid_post.1"], {"input_ids": ids, "attention_mask": mask})
    with torch.no_grad():
        got = restart(tail, seen["resid_post.1"].double(), attention_mask=mask)
        wanted = model(ids, attention_mask=mask).logits
    torch.testing.assert_close(got[mask.bool()], wanted[mask.bool()], rtol=0, atol=1e-5)


def test_restart_needs_a_family() -> None:
    with pytest.raises(HookPointError, match="no family"):
        restart(nn.Linear(2, 2), torch.ones(1, 1, 2))
