"""The command line: `openstory VERB`. Data goes to stdout, progress and errors to stderr.

Exit codes: 0 ok, 1 a data problem, 2 wrong usage. Heavy imports wait until a verb needs them.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openstory_hf import catalogue
from openstory_hf.errors import OpenStoryError, UsageError
from openstory_hf.version import __version__

if TYPE_CHECKING:
    from openstory_hf.plan import Plan
    from openstory_hf.shard import Progress


_WITH_DATASET_OPTIONS = ("build", "plan")
"""Verbs that leave the dataset's own options to be read once it is known."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.verb not in _WITH_DATASET_OPTIONS:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    for stream in (sys.stdout, sys.stderr):  # what a terminal cannot show, a title or the name of a file, is escaped
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        arguments.dataset_options = rest
        with _terminated_as_interrupted():
            code = int(arguments.run(arguments) or 0)
            sys.stdout.flush()
            return code
    except BrokenPipeError:  # `openstory list | head`: nobody reads on; nor shall the interpreter try when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # what shells say of SIGPIPE
    except UsageError as error:
        print(f"openstory: {error}", file=sys.stderr)
        return 2
    except OpenStoryError as error:
        print(f"openstory: {error}", file=sys.stderr)
        return 1
    except OSError as error:  # a full disk, a missing permission: the system says it well enough
        print(f"openstory: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print("openstory: interrupted; the same command continues a build", file=sys.stderr)
        return 128 + (interrupt.args[0] if interrupt.args else signal.SIGINT)


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """A scheduler's SIGTERM ends a verb as Ctrl-C does, with one message and no worker left."""
    if threading.current_thread() is not threading.main_thread():  # only there may handlers be set
        yield
        return

    def interrupt(number: int, _: object) -> None:
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="openstory",
        description="Package story-visualization datasets as streaming Hugging Face datasets.",
        epilog="example: openstory fake flintstones_sv raw && openstory build flintstones_sv --raw raw --out out "
        "--on-error quarantine && openstory preview out -o stories.html",
    )
    parser.add_argument("--version", action="version", version=f"openstory_hf {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, run: Callable[[argparse.Namespace], int | None], help: str, example: str) -> Any:
        sub = verbs.add_parser(name, help=help, description=help, epilog=f"example: openstory {example}")
        sub.set_defaults(run=run)
        return sub

    verb("list", _list, "List the datasets.", "list")
    info = verb("info", _info, "Show what a dataset is and how to obtain its raw release.", "info flintstones_sv")
    info.add_argument("name", help="dataset")
    fake = verb("fake", _fake, "Write a tiny synthetic raw release in the true layout.", "fake flintstones_sv raw")
    fake.add_argument("name", help="dataset")
    fake.add_argument("dir", type=Path, help="folder to write; must be empty or new")
    build = verb(
        "build",
        _build,
        "Build Parquet shards and a dataset card from a raw release. A killed build continues where it stopped.",
        "build african_storybook --raw asp --out out --languages en fr",
    )
    _add_inputs(build)
    build.add_argument("--out", required=True, help="folder to write, or URL of a place that fsspec can write to")
    build.add_argument("--num-proc", type=_positive, default=1, help="cores to use; changes speed, never a byte")
    build.add_argument(
        "--engine",
        choices=("pool", "datatrove-local", "slurm", "ray"),
        default="pool",
        help="what builds the shards: the processes of this machine (pool; datatrove-local with datatrove's logs), "
        "an array job of Slurm, or the nodes of a Ray cluster; changes speed, never a byte",
    )
    build.add_argument(
        "--engine-option",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="of the engine: for slurm partition, time, cpus, memory (GB), parallel, qos, array, env, logs, "
        "sbatch.NAME; for ray address, cpus, memory (bytes), retries",
    )
    build.add_argument(
        "--tasks",
        type=_range,
        metavar="FIRST-LAST",
        help="build only these tasks of the plan, counted from 0; whoever builds the last one completes the folder",
    )
    build.add_argument("--quiet", action="store_true", help="no progress bars")
    plan = verb(
        "plan",
        _plan,
        "Show what a build will take, before anything is written: shards, tasks, bytes, memory per task.",
        "plan flintstones_sv --raw raw --shard-mb 256",
    )
    _add_inputs(plan)
    plan.add_argument("--json", action="store_true", help="print JSON")
    status = verb(
        "status",
        _status,
        "Show how far a build is: shards done, being built and failed, and what to do next.",
        "status out",
    )
    status.add_argument("dir", help="the --out folder or URL of a build")
    status.add_argument("--json", action="store_true", help="print JSON")
    check = verb(
        "check", _check, "Verify built data: hashes, schema, ids, pictures, masks, offsets, card.", "check out"
    )
    check.add_argument("dir", help="built folder, user/repo on the Hub, or URL")
    check.add_argument("--revision", help="branch, tag or commit of a repository")
    check.add_argument("--quiet", action="store_true", help="no progress bars")
    stats = verb("stats", _stats, "Count a built folder: the tables papers print, captions, characters.", "stats out")
    stats.add_argument("dir", help="built folder, user/repo or URL")
    stats.add_argument("--json", action="store_true", help="print JSON instead of tables")
    stats.add_argument("--plot", type=Path, metavar="FILE", help="also draw them (.png, .pdf or .svg)")
    simulated = verb(
        "simulate",
        _simulate,
        "Tell what each rank of a training job will read: bytes, requests, imbalance, memory. Reads no data.",
        "simulate --ranks 512 --workers 8 --repo-stats out/manifest.json",
    )
    simulated.add_argument("--ranks", type=_positive, required=True, help="number of ranks (GPUs)")
    simulated.add_argument("--workers", type=_positive, default=1, help="loading processes of each rank")
    simulated.add_argument(
        "--repo-stats", required=True, metavar="MANIFEST", help="manifest.json, or a built folder, user/repo or URL"
    )
    simulated.add_argument("--split", default="train", help="split (default: train)")
    simulated.add_argument("--length", type=_positive, help="frames of a window (default: the published stories)")
    simulated.add_argument("--stride", type=_positive, default=1, help="frames between the starts of windows")
    simulated.add_argument(
        "--shuffle", type=_shuffle, default=True, metavar="HOW", help="true, false, full, or blocks at a time"
    )
    simulated.add_argument("--rate", type=float, default=10.0, help="stories a second that each rank trains on")
    simulated.add_argument("--ranks-per-node", type=_positive, default=8, help="ranks of a machine")
    simulated.add_argument("--json", action="store_true", help="print JSON, with the figures of every rank")
    explain = verb(
        "explain",
        _explain,
        "Show frame by frame what a referential-text policy does to a story, and why.",
        'explain "Fred and Wilma sit." "Fred eats." --cast flintstones_sv',
    )
    explain.add_argument("captions", nargs="+", metavar="CAPTION", help="one per frame, in order")
    explain.add_argument("--cast", required=True, help='a dataset, or a list like "fred=he,wilma=she"')
    explain.add_argument(
        "--characters",
        nargs="+",
        metavar="LABELS",
        help='labels of each frame, like "fred,man in blue hat" (default: the names in the caption)',
    )
    explain.add_argument("--policy", default="grammatical", help="referential-text policy")
    preview = verb("preview", _preview, "Draw stories as a PNG contact sheet or an HTML page.", "preview out -o a.png")
    preview.add_argument("dir", help="built folder, user/repo or URL")
    preview.add_argument("-o", "--output", type=Path, default=Path("preview.html"), help=".png or .html")
    preview.add_argument("--split", default="", help="split (default: the first)")
    preview.add_argument("-n", "--number", type=_positive, default=4, help="number of stories")
    preview.add_argument("--story", nargs="+", default=[], metavar="ID", help="show these story ids")
    preview.add_argument("--serve", action="store_true", help="a local web page to browse the stories, until Ctrl-C")
    preview.add_argument("--port", type=int, default=8765, help="of --serve; 0 for any free one")
    preview.add_argument("--tokenizer", default="", metavar="NAME", help="of transformers, for the tokens in --serve")
    card = verb(
        "card",
        _card,
        "Write README.md with the picture of a story, and croissant.json, again. Prose between its marks stays.",
        "card out --repo me/stories",
    )
    card.add_argument("dir", type=Path, help="built folder")
    card.add_argument("--repo", default="", metavar="USER/NAME", help="repository the examples in it load")
    push = verb(
        "push",
        _push,
        "Write the card, check the folder, and upload it to the Hugging Face Hub in one commit. Again to resume.",
        "push out me/stories",
    )
    push.add_argument("dir", type=Path, help="built folder")
    push.add_argument("repo", metavar="USER/NAME", help="dataset repository; made if it does not exist")
    visible = push.add_mutually_exclusive_group()
    visible.add_argument("--private", action="store_true", help="for its owner only (the default)")
    visible.add_argument("--public", action="store_true", help="for everybody")
    push.add_argument("--i-have-the-rights", action="store_true", help="to publish pictures that belong to others")
    push.add_argument("--quiet", action="store_true", help="no progress bars")
    quick = verb(
        "quickstart",
        _quickstart,
        "The whole road on a synthetic release: fake, build, check, load, collate, preview.",
        "quickstart --dir quickstart",
    )
    quick.add_argument("--dir", type=Path, default=Path("quickstart"), help="folder to write")
    return parser


def _add_inputs(verb: Any) -> None:
    """The arguments that decide what is built."""
    verb.add_argument("name", help="dataset")
    verb.add_argument("--raw", required=True, help="folder or zip of the raw release")
    verb.add_argument("--split", nargs="+", default=[], metavar="SPLIT", help="splits to build (default: all)")
    verb.add_argument("--policy", default="", help="referential-text policy of the stored column")
    verb.add_argument(
        "--on-error",
        choices=("raise", "quarantine"),
        default="raise",
        help="stop at the first bad record, or leave bad records out and list them in rejects.jsonl",
    )
    verb.add_argument(
        "--image-codec",
        choices=("png", "webp", "jpeg"),
        default="png",
        help="of pictures that the release has as raw pixels: png (fast), webp (smallest), jpeg (LOSSY, quality 95); "
        "encoded ones keep their bytes",
    )
    verb.add_argument("--shard-mb", type=_positive, default=384, help="size of a shard the plan aims at")
    verb.add_argument("--row-group-mb", type=_positive, default=24, help="size of a row group")


def _range(text: str) -> range:
    first, dash, last = text.partition("-")
    last = last if dash else first
    numbers = range(int(first), int(last) + 1) if first.isdecimal() and last.isdecimal() else None
    if not numbers:
        raise argparse.ArgumentTypeError("must be like 0-31, with the last number not below the first")
    return numbers


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _shuffle(text: str) -> Any:
    known = {"true": True, "false": False, "full": "full"}
    if text not in known and not (text.isdecimal() and int(text) > 1):
        raise argparse.ArgumentTypeError('must be "true", "false", "full" or a number from 2')
    return known[text] if text in known else int(text)


def _list(_: argparse.Namespace) -> None:
    for name in catalogue.names():
        print(f"{name:<20} {catalogue.summary(name)}")


def _info(arguments: argparse.Namespace) -> None:
    print(catalogue.get(arguments.name).INFO.describe(arguments.name))


def _fake(arguments: argparse.Namespace) -> None:
    builder = catalogue.get(arguments.name)
    from openstory_hf.fakes import RawWriter

    if arguments.dir.exists() and any(arguments.dir.iterdir()):
        raise UsageError(f"{arguments.dir} is not empty; choose another folder")
    builder.fake(RawWriter(arguments.dir))
    print(f"wrote a synthetic release of {builder.INFO.title} to {arguments.dir}")


def _build(arguments: argparse.Namespace) -> None:
    builder = catalogue.get(arguments.name)
    from openstory_hf import build, finish

    manifest = build.build(
        builder,
        arguments.raw,
        arguments.out,
        **_inputs(arguments, builder),
        num_proc=arguments.num_proc,
        progress=None if arguments.quiet else _bars,
        engine=arguments.engine,
        engine_options=_engine_options(arguments.engine_option),
        tasks=arguments.tasks,
    )
    if not manifest:  # the last shards are built by somebody else, or later
        from openstory_hf import status

        print(status.render(status.status(arguments.out)), end="")
        return
    print(f"{manifest['title']} in {arguments.out}")
    for split, counts in manifest["splits"].items():
        stories, frames, published = counts["stories"], counts["frames"], counts["published_stories"]
        print(
            f"{split}: {stories['seen']:,} stories seen = {stories['written']:,} written + "
            f"{stories['rejected']:,} rejected; {frames['seen']:,} frames seen = {frames['written']:,} written + "
            f"{frames['rejected']:,} rejected" + ("" if published is None else f"; published: {published:,} stories")
        )
    if any(counts["stories"]["rejected"] or counts["frames"]["rejected"] for counts in manifest["splits"].values()):
        print(f"what was left out, and why: {arguments.out}/{finish.REJECTS}")


def _inputs(arguments: argparse.Namespace, builder: Any) -> dict[str, Any]:
    """The arguments of `_add_inputs` as those of `build` and `plan_build`."""
    from openstory_hf.builder import DEFAULT_POLICY

    return {
        "splits": arguments.split,
        "options": _dataset_options(arguments, builder.INFO.options),
        "policy": arguments.policy or DEFAULT_POLICY,
        "on_error": arguments.on_error,
        "image_codec": arguments.image_codec,
        "shard_bytes": arguments.shard_mb << 20,
        "row_group_bytes": arguments.row_group_mb << 20,
    }


def _engine_options(given: Sequence[str]) -> dict[str, str]:
    options = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--engine-option {text}: write NAME=VALUE")
        options[name] = value
    return options


def _plan(arguments: argparse.Namespace) -> None:
    builder = catalogue.get(arguments.name)
    import json

    from openstory_hf import estimate
    from openstory_hf.builder import open_raw
    from openstory_hf.plan import plan_build

    plan = plan_build(builder, open_raw(builder, arguments.raw), **_inputs(arguments, builder))
    found = estimate.estimate(plan)
    print(json.dumps(found.as_dict()) + "\n" if arguments.json else estimate.render(found), end="")


def _status(arguments: argparse.Namespace) -> None:
    import json

    from openstory_hf import status

    found = status.status(arguments.dir)
    print(json.dumps(found.as_dict()) + "\n" if arguments.json else status.render(found), end="")


def _dataset_options(arguments: argparse.Namespace, known: Any) -> dict[str, list[str]]:
    parser = argparse.ArgumentParser(prog=f"openstory {arguments.verb} {arguments.name}")
    for option, facts in known.items():
        parser.add_argument(f"--{option.replace('_', '-')}", nargs="+", default=[], help=facts.help, dest=option)
    return {option: values for option, values in vars(parser.parse_args(arguments.dataset_options)).items() if values}


@contextlib.contextmanager
def _bars(plan: Plan) -> Iterator[Progress]:
    """One progress bar per split, on stderr, and only for people."""
    from tqdm import tqdm

    totals: dict[str, int] = {}
    for shard in plan.shards:
        totals[shard.split] = totals.get(shard.split, 0) + sum(unit.records for unit in shard.units)
    bars = {
        split: tqdm(total=total, desc=split, unit="rec", position=position, disable=None, file=sys.stderr)
        for position, (split, total) in enumerate(totals.items())
    }

    def update(split: str, number: int) -> None:
        bars[split].update(number)

    try:
        yield update
    finally:
        for bar in bars.values():
            bar.close()


def _check(arguments: argparse.Namespace) -> int:
    from openstory_hf.check import check

    problems = check(arguments.dir, revision=arguments.revision, quiet=arguments.quiet)
    for problem in problems:
        print(problem)
    print(f"{arguments.dir}: " + (f"{len(problems)} problems" if problems else "ok"))
    return 1 if problems else 0


def _stats(arguments: argparse.Namespace) -> None:
    import json

    from openstory_hf import stats

    found = stats.collect(arguments.dir)
    if arguments.json:
        print(json.dumps(found.as_dict(), ensure_ascii=False))
    else:
        print(stats.render_text(found), end="")
    if arguments.plot:
        stats.plot(found, arguments.plot)


def _simulate(arguments: argparse.Namespace) -> None:
    import json

    from openstory_hf.simulate import simulate

    found = simulate(
        arguments.repo_stats,
        ranks=arguments.ranks,
        workers=arguments.workers,
        split=arguments.split,
        length=arguments.length,
        stride=arguments.stride,
        shuffle=arguments.shuffle,
        rate=arguments.rate,
        ranks_per_node=arguments.ranks_per_node,
    )
    print(json.dumps(found.as_dict()) if arguments.json else found.as_text(), end="\n" if arguments.json else "")


def _explain(arguments: argparse.Namespace) -> None:
    from openstory_hf.references.explain import explain, parse_cast

    cast = parse_cast(arguments.cast) if "=" in arguments.cast else catalogue.get(arguments.cast).INFO.characters
    if not cast:
        raise UsageError(f'{arguments.cast} has no cast; write one, like --cast "fred=he,wilma=she"')
    labels = [entry.split(",") for entry in arguments.characters] if arguments.characters else None
    print(explain(arguments.captions, labels, cast, arguments.policy))


def _preview(arguments: argparse.Namespace) -> None:
    if arguments.serve:
        from openstory_hf.preview.serve import serve

        serve(arguments.dir, arguments.port, tokenizer=arguments.tokenizer)
        return
    from openstory_hf import preview
    from openstory_hf.rows import read_stories

    rows = read_stories(arguments.dir, arguments.split, arguments.number, arguments.story)
    preview.save(rows, arguments.output, title=f"{rows[0]['dataset']} – {len(rows)} stories")
    print(arguments.output)


def _card(arguments: argparse.Namespace) -> None:
    from openstory_hf import hub

    _draw_example(arguments.dir)
    print(hub.write_card(arguments.dir, arguments.repo))


def _push(arguments: argparse.Namespace) -> None:
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    from openstory_hf import hub

    if arguments.quiet:
        disable_progress_bars()
    _draw_example(arguments.dir)
    commit = hub.push(
        arguments.dir,
        arguments.repo,
        private=not arguments.public,
        have_the_rights=arguments.i_have_the_rights,
        quiet=arguments.quiet,
    )
    print(commit)
    print(f'load_dataset("{arguments.repo}", streaming=True)')


def _draw_example(path: Path) -> None:
    """Draw the first story, at most five frames of it, for the card."""
    from openstory_hf import card, hub, preview
    from openstory_hf.rows import read_stories

    folder, root = hub.local_folder(path)
    split = next(iter(card.configs(folder.manifest)["stories"]["splits"]))
    (story,) = read_stories(str(root), split, number=1)
    short = {name: value[:5] if isinstance(value, list) else value for name, value in story.items()}
    preview.save([short], root / card.EXAMPLE, title=story["story_id"])


def _quickstart(arguments: argparse.Namespace) -> None:
    from openstory_hf.quickstart import quickstart

    quickstart(arguments.dir)


if __name__ == "__main__":
    sys.exit(main())
