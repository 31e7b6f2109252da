"""A picture as rows store it, by which a test sees where it went."""

import numpy as np

from openstory_hf import codecs


def flat(colour=(0, 0, 0), size=(4, 4), path="flat.png"):
    """A stored picture (width, height) of one colour."""
    width, height = size
    return {"bytes": codecs.encode_png(np.full((height, width, 3), colour, np.uint8)), "path": path}
