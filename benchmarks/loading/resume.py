"""What exact states cost: reading with a state after every batch, and the first batch after a state.

    python -m benchmarks.loading.resume [--quick] [--rounds 3] [--work FOLDER] [--markdown FILE]

The work is that of `python -m benchmarks.loading`. A plain pass is a loop over the rows in the order of the files; the
loader is measured in the same order and shuffled, with and without states; all passes take turns of some batches in
one process, so that none has a better moment than another. The state at nine tenths of an epoch is loaded in a fresh
process, by as many workers or by another number; before, it is made sure that what comes then is what was left.
`datasets` streams in order, for its shuffle loses the stories in its buffer on resume.
"""

from __future__ import annotations

import statistics
from functools import partial

from benchmarks.loading import command, measure, table
from benchmarks.loading.source import EPISODES
from benchmarks.loading.states import DONE

PASSES = {
    "plain": "openstory_hf: plain loop over the rows, in order",
    "loader": "`StoryLoader`, in order",
    "loader-states": "… with a state after every batch",
    "shuffled": "`StoryLoader`, shuffled",
    "shuffled-states": "… with a state after every batch",
    "hf": "HF streaming, 5 fixed pictures, bytes, our decoder, in order",
    "hf-states": "… with a state after every batch",
}
PLAIN = {
    "loader": "plain",
    "loader-states": "plain",
    "shuffled": "plain",
    "shuffled-states": "plain",
    "hf-states": "hf",
}
"""The plain pass that a pass is compared with."""
STATELESS = {"loader-states": "loader", "shuffled-states": "shuffled", "hf-states": "hf"}
"""The same pass without states."""
RESUMES = {
    ("ours", 0, 0): "openstory_hf, shuffled",
    ("ours", 2, 0): "… a state of two workers, by one process",
    ("ours", 0, 2): "… a state of one process, by two workers",
    ("hf", 0, 0): "HF streaming, 5 fixed pictures, bytes, our decoder, in order",
}


def main() -> None:
    parser = command.options(__doc__, disk="4 GB")
    parser.add_argument("--seconds", type=float, default=5.0, help="least time of a pass")
    chosen = parser.parse_args()
    size = EPISODES
    if chosen.quick:
        chosen.rounds, chosen.seconds, size = 1, 1.0, EPISODES // 12
    work = command.written("clips", ["ours", "hf-fixed"], chosen.work, size)
    call = partial(measure.call, "benchmarks.loading.states", work=work)
    states = {key: call("state_at", of=key[0], before=key[1], after=key[2])["state"] for key in RESUMES}
    busy = [table.load_average()]
    passes = measure.rounds(
        ["all"], chosen.rounds, lambda _: call("measure_passes", names=list(PASSES), seconds=chosen.seconds)
    )["all"]
    starts = [(key, state) for key in RESUMES for state in (False, True)]
    firsts = measure.rounds(
        starts,
        chosen.rounds,
        lambda start: call("first", of=start[0][0], workers=start[0][2], state=states[start[0]] if start[1] else None),
    )
    busy.append(table.load_average())

    def cost(name: str, bases: dict[str, str]) -> str:
        """The median of the rounds, and how far they lie apart."""
        if name not in bases:
            return "–"
        found = sorted(run[bases[name]] / run[name] - 1 for run in passes)
        return f"{statistics.median(found):+.1%} ({found[0]:+.1%} … {found[-1]:+.1%})"

    rows = [
        [title, f"{passes.median(name):,.0f}", cost(name, PLAIN), cost(name, STATELESS)]
        for name, title in PASSES.items()
    ]
    seconds = [[firsts[key, state].median("seconds") for state in (False, True)] for key in RESUMES]
    text = (
        f"One process, {chosen.rounds} rounds, medians. {table.machine(busy)}\n\n"
        f"{table.markdown(['pass', 'stories/s', 'more time than a plain pass', 'than without states'], rows)}\n\n"
        + table.markdown(
            ["first batch s", "of an epoch", f"after {DONE:.0%}"],
            [[title, *(f"{one:.2f}" for one in both)] for title, both in zip(RESUMES.values(), seconds, strict=True)],
        )
        + "\n"
    )
    command.report(text, chosen.markdown)


if __name__ == "__main__":
    main()
