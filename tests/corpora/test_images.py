"""Pictures from files, tar shards and arrays: pixels, names, order, and what is no picture."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bathyscope.corpora.images import open_images, random_boxes, resized
from bathyscope.errors import ConfigError, CorpusError


def pixels(number: int, height: int = 6, width: int = 4) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(number)).save(file, "png")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(6):
        path = tmp_path / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(number))
    (tmp_path / "class0" / "notes.txt").write_text("no picture")
    return tmp_path


def test_a_folder_gives_its_pictures_whatever_lies_beside_them(folder: Path) -> None:
    found, record = open_images("images", str(folder), seed=None)
    pictures = list(found)
    assert [p.name for p in pictures] == [f"class{n % 2}/{n}.png" for n in (0, 2, 4, 1, 3, 5)]
    assert np.array_equal(pictures[1].pixels, pixels(2))
    assert record["files"] == 6
    assert str(folder) not in str(record)


def test_a_seed_gives_another_order_of_the_same_pictures(folder: Path) -> None:
    orders = [
        [p.name for p in open_images("images", str(folder), seed=seed)[0]]
        for seed in (None, 0, 0, 1)
    ]
    assert orders[1] == orders[2] != orders[0]
    assert orders[1] != orders[3]
    assert all(sorted(order) == sorted(orders[0]) for order in orders)


def test_tar_shards_are_read_without_being_unpacked(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shard-0.tar", "w") as tar:
        for name, data in (("a.png", png(1)), ("a.json", b"{}"), ("b/c.png", png(2))):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    found, _ = open_images("tar", f"{tmp_path}/*.tar", seed=None)
    pictures = list(found)
    assert [p.name for p in pictures] == ["shard-0.tar:a.png", "shard-0.tar:b/c.png"]
    assert np.array_equal(pictures[1].pixels, pixels(2))


def test_arrays_of_grey_and_of_colour(tmp_path: Path) -> None:
    np.save(tmp_path / "grey.npy", pixels(0)[None, :, :, 0])
    np.savez(tmp_path / "both.npz", one=pixels(1)[None], two=pixels(2)[None, :, :, :1])
    pictures = {p.name: p.pixels for p in open_images("arrays", str(tmp_path), seed=None)[0]}
    assert list(pictures) == ["both.npz:one0", "both.npz:two0", "grey.npy:0"]
    assert np.array_equal(pictures["both.npz:one0"], pixels(1))
    assert all((pictures["grey.npy:0"][..., c] == pixels(0)[..., 0]).all() for c in range(3))


def test_upright_and_without_alpha(tmp_path: Path) -> None:
    turned = Image.fromarray(pixels(3))
    exif = Image.Exif()
    exif[0x0112] = 6  # Turned by a quarter.
    turned.save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(np.dstack([pixels(4), pixels(4)[..., :1]])).save(tmp_path / "alpha.png")
    alpha, upright = [p.pixels for p in open_images("images", str(tmp_path), seed=None)[0]]
    assert np.array_equal(upright, np.rot90(pixels(3), -1))
    assert np.array_equal(alpha, pixels(4))


def test_the_digest_is_of_the_pixels_and_their_shape(tmp_path: Path) -> None:
    for name, number in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / f"{name}.png").write_bytes(png(number))
    a, b, c = open_images("images", str(tmp_path), seed=None)[0]
    assert a.digest == b.digest != c.digest
    assert len(a.digest) == 32
    assert a._replace(pixels=a.pixels.reshape(4, 6, 3)).digest != a.digest


@pytest.mark.parametrize(
    ("kind", "name", "content", "said"),
    [
        ("images", "a.png", b"no picture", r"a\.png cannot be read as a picture"),
        ("images", "a.png", png(0)[:60], r"a\.png cannot be read as a picture"),
        ("tar", "a.tar", b"no tar", r"a\.tar cannot be read as a tar file"),
        ("arrays", "a.npy", b"no array", r"a\.npy cannot be read as arrays"),
    ],
)
def test_broken_files_are_named(
    tmp_path: Path, kind: str, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=said):
        list(open_images(kind, str(tmp_path), seed=None)[0])


def test_arrays_of_another_shape_or_dtype_are_refused(tmp_path: Path) -> None:
    for wrong in (np.zeros((2, 3, 4), np.float32), np.zeros((1, 2, 3, 2), np.uint8)):
        np.save(tmp_path / "a.npy", wrong)
        with pytest.raises(CorpusError, match=r"Wanted uint8 \[n, height, width\]"):
            list(open_images("arrays", str(tmp_path), seed=None)[0])


def test_pickles_are_not_read(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(CorpusError, match="cannot be read as arrays"):
        list(open_images("arrays", str(tmp_path), seed=None)[0])


def test_nothing_there_and_unknown_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"It holds no picture file \(\.jpg"):
        open_images("images", str(tmp_path), seed=None)
    with pytest.raises(CorpusError, match="There is no folder"):
        open_images("tar", str(tmp_path / "no" / "a.tar"), seed=None)
    with pytest.raises(ConfigError, match="There is no image source 'video'"):
        open_images("video", str(tmp_path), seed=None)
    with pytest.raises(ConfigError, match="No picture path was given"):
        open_images("images", [], seed=None)


def test_the_middle_of_a_picture_by_hand() -> None:
    picture = np.zeros((4, 8, 3), np.uint8)
    picture[:, 2:6] = 200
    assert (resized(picture, 4) == 200).all(), "the middle is 4 wide"
    assert resized(picture, 7).shape == (7, 7, 3)
    assert (resized(picture, 2, (0, 0, 2, 2)) == 0).all()


def test_random_squares_lie_inside_and_repeat() -> None:
    boxes = random_boxes(30, 50, count=200, seed=1)
    assert (
        boxes == random_boxes(30, 50, count=200, seed=1) != random_boxes(30, 50, count=200, seed=2)
    )
    for left, top, right, bottom in boxes:
        assert right - left == bottom - top
        assert 7 <= right - left <= 30
        assert 0 <= left < right <= 50
        assert 0 <= top < bottom <= 30
    assert random_boxes(1, 1, count=2, seed=0) == [(0, 0, 1, 1)] * 2
