"""Pictures from folders, tar shards and arrays, as pixels in memory one after the other.

A record identifies a source by names and sizes of its files: reading all bytes of a large set of
pictures to name it would take as long as the harvest. The digests of the pixels that were taken are
kept with the corpus.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from hashlib import blake2b
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bathyscope.corpora.file_list import CorpusFile, Paths, list_files
from bathyscope.corpora.order import order_key
from bathyscope.errors import ConfigError, CorpusError, DependencyError

Pixels = npt.NDArray[np.uint8]

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_SUFFIXES = {"images": PICTURES, "tar": (".tar", ".tar.gz", ".tgz"), "arrays": (".npy", ".npz")}
IMAGE_KINDS = tuple(_SUFFIXES)


class Picture(NamedTuple):
    """A picture with a name."""

    name: str
    """Unique in its corpus and free of machine paths."""
    pixels: Pixels
    """[height, width, 3]."""

    @property
    def digest(self) -> str:
        """32 hexadecimal digits of shape and pixels; the name does not enter."""
        hashed = blake2b(repr(self.pixels.shape).encode(), digest_size=16)
        hashed.update(np.ascontiguousarray(self.pixels).data)
        return hashed.hexdigest()


def open_images(kind: str, paths: Paths, *, seed: int | None) -> tuple[Iterator[Picture], Any]:
    """The pictures of a source, and the JSON-ready record that identifies it.

    | kind | paths |
    | --- | --- |
    | images | picture files, globs, or folders that hold them |
    | tar | tar shards with pictures in them, as WebDataset writes them |
    | arrays | .npy and .npz files of uint8 [n, h, w], [n, h, w, 1] or [n, h, w, 3] |

    With a `seed`, files come in a seeded order; what is in one tar shard or array stays in its own.
    Raises `ConfigError` for an unknown kind, `CorpusError` for files that cannot be read, and
    `DependencyError` without Pillow.
    """
    if kind not in _SUFFIXES:
        raise ConfigError(f"There is no image source '{kind}'. There are: {', '.join(_SUFFIXES)}.")
    files = list_files(paths, suffixes=_SUFFIXES[kind], kind="picture", folders=True)
    names = "\n".join(f"{file.name} {file.path.stat().st_size}" for file in files)
    record = {
        "kind": kind,
        "files": len(files),
        "names_and_sizes": blake2b(names.encode(), digest_size=16).hexdigest(),
    }
    if seed is not None:
        files = sorted(files, key=lambda file: order_key(file.name, seed))
    read: Callable[[CorpusFile], Iterator[Picture]] = {
        "images": _of_file,
        "tar": _of_tar,
        "arrays": _of_arrays,
    }[kind]
    return (picture for file in files for picture in read(file)), record


def _of_file(file: CorpusFile) -> Iterator[Picture]:
    with file.path.open("rb") as opened:
        yield Picture(file.name, decoded(opened, str(file.path)))


def _of_tar(file: CorpusFile) -> Iterator[Picture]:
    try:
        with tarfile.open(file.path) as tar:
            for member in tar:
                if member.isfile() and member.name.lower().endswith(PICTURES):
                    data = tar.extractfile(member)
                    assert data is not None, "it is a file"
                    where = f"{member.name} in {file.path}"
                    pixels = decoded(io.BytesIO(data.read()), where)
                    yield Picture(f"{file.name}:{member.name}", pixels)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise CorpusError(
            f"{file.path} cannot be read as a tar file: {error}. Make it again, or leave it out."
        ) from error


def _of_arrays(file: CorpusFile) -> Iterator[Picture]:
    try:
        # Object arrays are pickles; allow_pickle stays off.
        loaded = np.load(file.path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise CorpusError(f"{file.path} cannot be read as arrays: {error}.") from error
    arrays = {"": loaded} if isinstance(loaded, np.ndarray) else loaded
    for name in arrays:
        array = arrays[name]
        channels = array.shape[3] if array.ndim == 4 else 1
        if array.dtype != np.uint8 or array.ndim not in (3, 4) or channels not in (1, 3):
            raise CorpusError(
                f"{name or 'the array'} in {file.path} is {array.dtype} {list(array.shape)}. "
                "Wanted uint8 [n, height, width], or with 1 or 3 channels last."
            )
        for number, pixels in enumerate(array):
            height, width = pixels.shape[:2]
            colours = np.broadcast_to(pixels.reshape(height, width, channels), (height, width, 3))
            yield Picture(f"{file.name}:{name}{number}", np.ascontiguousarray(colours))


def decoded(file: IO[bytes], where: str) -> Pixels:
    """Pixels [height, width, 3] of a picture file, upright as its EXIF says, without its alpha.

    Raises `CorpusError` for a file that is no picture or is cut off.
    """
    image_module, ops = pillow()
    try:
        with image_module.open(file) as picture:
            return np.asarray(ops.exif_transpose(picture).convert("RGB"))
    except (OSError, ValueError, SyntaxError, image_module.DecompressionBombError) as error:
        raise CorpusError(
            f"{where} cannot be read as a picture: {error}. Mend it, or leave it out."
        ) from error


def resized(pixels: Pixels, size: int, box: tuple[int, int, int, int] | None = None) -> Pixels:
    """A square of pixels [size, size, 3], bicubic with antialiasing.

    It is the part in `box` (left, top, right, bottom), or the middle of the picture, as large as
    its shorter side.
    """
    image_module, _ = pillow()
    height, width = pixels.shape[:2]
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    picture = image_module.fromarray(np.ascontiguousarray(pixels))
    wanted = box or (left, top, left + side, top + side)
    square = picture.resize((size, size), image_module.Resampling.BICUBIC, box=wanted)
    return np.asarray(square)


def random_boxes(
    height: int, width: int, *, count: int, seed: int, least: float = 0.25
) -> list[tuple[int, int, int, int]]:
    """Squares anywhere in a picture, whose sides are `least` to 1 times its shorter side."""
    random = np.random.default_rng(seed)
    shorter = min(height, width)
    boxes = []
    for _ in range(count):
        side = int(random.integers(max(int(least * shorter), 1), shorter + 1))
        left = int(random.integers(0, width - side + 1))
        top = int(random.integers(0, height - side + 1))
        boxes.append((left, top, left + side, top + side))
    return boxes


def pillow() -> tuple[Any, Any]:
    """Pillow's modules Image and ImageOps. Raises `DependencyError` without it."""
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise DependencyError(
            'Pictures are read with Pillow, which is missing: pip install "bathyscope[images]"'
        ) from error
    return Image, ImageOps
