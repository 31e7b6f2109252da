"""Statistics of a built dataset: the tables papers print about it, recounted from the files.

Everything is counted in one pass over the columns other than `images`; only the resolution needs pictures, and it
reads the headers of a sample. Memory grows with the number of different words for things (settings, characters),
not with the number of stories.
"""

from openstory_hf.stats.counting import SAMPLED_ROWS, collect
from openstory_hf.stats.plots import plot
from openstory_hf.stats.references import MAKE_A_STORY_FRAMES, PAPER, released_flintstones, released_pororo
from openstory_hf.stats.summary import CharacterCount, Distribution, References, Resolution, Statistics, Summary
from openstory_hf.stats.text import render_text

__all__ = [
    "MAKE_A_STORY_FRAMES",
    "PAPER",
    "SAMPLED_ROWS",
    "CharacterCount",
    "Distribution",
    "References",
    "Resolution",
    "Statistics",
    "Summary",
    "collect",
    "plot",
    "released_flintstones",
    "released_pororo",
    "render_text",
]
