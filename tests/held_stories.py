"""FlintstonesSV whose units wait while there is a file beside the release: builds stand still where they are."""

import threading

from openstory_hf.builders.flintstones_sv import FlintstonesSV

from openstory_hf.builder import StoryBuilder

HOLD = "hold"


def held(raw, unit):
    """The sequences of a unit, once the file is gone."""
    pause = threading.Event()
    while (raw.path.parent / HOLD).exists():
        pause.wait(0.01)
    return FlintstonesSV.sequences(raw, unit)


class HeldStories(StoryBuilder):
    """The same stories under another name."""

    INFO = FlintstonesSV.INFO
    units = staticmethod(FlintstonesSV.units)
    sequences = staticmethod(held)
    fake = staticmethod(FlintstonesSV.fake)
