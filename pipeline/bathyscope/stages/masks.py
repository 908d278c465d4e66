"""Which positions count. One place, so that training, metrics and splice cannot disagree."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bathyscope.corpora.masks import Mask

PROTOCOL = (
    "The first position of every sequence is left out of training, of all averages and of the "
    "splice: it is an attention sink whose activation is several times larger."
)


def kept(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Which rows count, by their mask bits: all but the first position of a sequence."""
    return (mask & int(Mask.FIRST)) == 0
