"""The bits that say what a position of a packed sequence is.

They are written with the corpus and applied when activations are read, never when they are
written, so that a later study can choose other positions.
"""

from enum import IntFlag


class Mask(IntFlag):
    """Bits of `PackedSequence.mask`, one uint8 per position."""

    FIRST = 1
    """Position 0 of the sequence, where many models put an attention sink."""
    SPECIAL = 2
    """The token is one of the tokenizer's special ids."""
    DOCUMENT_START = 4
    """The first token after a separator."""
    SYSTEM = 8
    """What the system says in a conversation, with what the chat template puts before it."""
    USER = 16
    ASSISTANT = 32
    TOOL = 64


ROLES = {
    "system": Mask.SYSTEM,
    "user": Mask.USER,
    "assistant": Mask.ASSISTANT,
    "tool": Mask.TOOL,
}
