"""`explain`: what was replaced, and why; the cast as a line of text."""

import pytest

from openstory_hf.errors import UsageError
from openstory_hf.info import Character
from openstory_hf.references import POLICIES, rewrite
from openstory_hf.references.explain import explain, parse_cast

CAST = (Character(name="fred", pronouns="he"), Character(name="wilma", pronouns="she"))


def test_explain_shows_caption_result_reasons_and_mentions():
    assert explain(["Fred and Wilma sit.", "Wilma eats Fred's pie."], None, CAST).splitlines() == [
        "frame 1",
        "  caption   Fred and Wilma sit.",
        "  result    Fred and Wilma sit.",
        "  reason    nothing changes; new here: fred, wilma; antecedents from now on: fred (he), wilma (she)",
        "  mention   fred: 0:4 Fred -> 0:4 Fred",
        "  mention   wilma: 9:14 Wilma -> 9:14 Wilma",
        "frame 2",
        "  caption   Wilma eats Fred's pie.",
        "  result    She eats his pie.",
        "  reason    speaks of wilma (she), fred (he); antecedents, of frame 1: fred (he), wilma (she)",
        '  reason    Wilma -> She: subject; the only "she" among the antecedents',
        '  reason    Fred\'s -> his: possessive; the only "he" among the antecedents',
        "  mention   wilma: 0:5 Wilma -> 0:3 She",
        "  mention   fred: 11:17 Fred's -> 9:12 his",
    ]


@pytest.mark.parametrize("policy", POLICIES)
def test_explain_agrees_with_rewrite(policy):
    captions, labels = ["Fred sits.", "Fred eats.", "Fred talks to Wilma."], [["fred"], ["fred"], ["fred", "wilma"]]
    shown = [line.removeprefix("  result    ") for line in explain(captions, labels, CAST, policy).splitlines()]
    assert all(entry.text in shown for entry in rewrite(captions, labels, CAST, policy))


def test_explain_uses_the_labels_it_is_given():
    captions = ["Fred sits.", "Fred eats."]
    assert "result    He eats." in explain(captions, None, CAST)
    assert 'Fred stays: "he" could also be barney' in explain(captions, [["fred", "barney"], ["fred"]], CAST)


def test_explain_reports_a_released_crash():
    assert "IndexError" in explain(["It rains.", "It snows."], [[], []], CAST, "storygpt_v")


def test_explain_refuses_what_rewrite_refuses():
    with pytest.raises(UsageError, match="unknown reference policy"):
        explain(["Fred."], None, CAST, "best")
    with pytest.raises(UsageError, match="1 captions but 2 lists"):
        explain(["Fred."], [[], []], CAST)


def test_parse_cast():
    assert parse_cast("Fred=he, mr slate / slate = He,sam=they") == (
        Character(name="fred", pronouns="he"),
        Character(name="mr slate", pronouns="he", aliases=("slate",)),
        Character(name="sam", pronouns="they"),
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("fred", "cannot read 'fred'"),
        ("fred=him", "cannot read 'fred=him'"),
        ("=he", "cannot read '=he'"),
        ("fred/=he", "cannot read 'fred/=he'"),
        ("fred=he,", "cannot read ''"),
        ("", "cannot read ''"),
        ("fred=he,Fred=she", "'fred' stands twice"),
        ("fred/fred=he", "'fred' stands twice"),
    ],
)
def test_parse_cast_says_what_to_write(text, problem):
    with pytest.raises(UsageError, match=f"{problem}.*write each character as NAME=he"):
        parse_cast(text)
