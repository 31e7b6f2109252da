"""What the Hub accepts in the front matter of a dataset card, which it tells only those who push."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from typing import Any

LICENSES = """
    afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc
    cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0
    cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0
    cdla-permissive-1.0 cdla-permissive-2.0 cdla-sharing-1.0 ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 gfdl
    gpl gpl-2.0 gpl-3.0 isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1
    openrail osl-3.0 other pddl postgresql unknown unlicense wtfpl zlib
"""
TASKS = """
    any-to-any audio-classification audio-text-to-text audio-to-audio automatic-speech-recognition
    depth-estimation document-question-answering feature-extraction fill-mask graph-ml image-classification
    image-feature-extraction image-segmentation image-text-to-image image-text-to-text image-text-to-video image-to-3d
    image-to-image image-to-text image-to-video keypoint-detection mask-generation multiple-choice object-detection
    other question-answering reinforcement-learning robotics sentence-similarity summarization table-question-answering
    table-to-text tabular-classification tabular-regression tabular-to-text text-classification text-generation
    text-ranking text-retrieval text-to-3d text-to-audio text-to-image text-to-speech text-to-video
    time-series-forecasting token-classification translation unconditional-image-generation video-classification
    video-text-to-text video-to-video visual-document-retrieval visual-question-answering voice-activity-detection
    zero-shot-classification zero-shot-image-classification zero-shot-object-detection
"""
_SPECIAL_LANGUAGES = ("code", "mis", "mul", "multilingual", "und", "zxx")


@cache
def _known(name: str) -> frozenset[str]:
    """One of the lists of allowed values that `datasets` ships."""
    return frozenset(
        json.loads(resources.files("datasets.utils.resources").joinpath(f"{name}.json").read_text("utf-8"))
    )


def is_language(code: str) -> bool:
    """Whether the Hub takes a language code: ISO 639-1, 639-3, or one of those for no or many languages."""
    return code in _known("languages") or code in _SPECIAL_LANGUAGES


def problems(front: Mapping[str, Any]) -> list[str]:
    """What the Hub would refuse or drop in a card's front matter. Its configs are for `datasets` to judge."""
    rules: tuple[tuple[str, Callable[[str], object], str], ...] = (
        ("pretty_name", bool, "text"),
        ("license", LICENSES.split().__contains__, "a licence the Hub knows; write `other` and a `license_name`"),
        ("language", is_language, "an ISO 639 code"),
        ("task_categories", TASKS.split().__contains__, "a task of the Hub"),
        ("size_categories", _known("size_categories").__contains__, "a size category of the Hub, like 10K<n<100K"),
        ("tags", bool, "text"),
        ("license_name", re.compile(r"[a-z0-9.-]+").fullmatch, "lower-case letters, digits, dots and hyphens"),
    )
    found = []
    for key, accepts, what in rules:
        values = front.get(key)
        if values is None and (key != "license_name" or front.get("license") == "other"):
            found.append(f"{key} is missing")
        for value in [] if values is None else values if isinstance(values, list) else [values]:
            if not isinstance(value, str) or not accepts(value):
                found.append(f"{key}: {value!r} is not {what}")
    return found
