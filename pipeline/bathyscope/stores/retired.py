"""Which units of a segment are done, read by everybody, and deleted. See `streaming`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bathyscope.stores.objects import Objects
from bathyscope.stores.pointers import Pointer
from bathyscope.stores.unit_ranges import as_array


def streaming_pointer(objects: Objects, segment: str) -> Pointer:
    """The record of what a streamed segment holds."""
    return Pointer(objects, f"streaming/{segment}")


def retired_units(objects: Objects, segment: str) -> npt.NDArray[np.int64]:
    """Units whose shards were deleted because everybody had passed them, sorted."""
    held = streaming_pointer(objects, segment).read()
    return as_array(held.value["retired"] if held else [])
