"""Growth compared with its controls: runs what is missing of the arms, then prints the results.

    scripts/benchmarks/growth [--tasks G1 G2 G3] [--arms ...] [--seeds 10] [--jobs 2] [--plot growth.png]

Every finished run is a line of the results file, and is not repeated: a run that was cut off goes on.
A row contains its configuration, not the code: after a change of a policy's code, use a new file.
README.md's runs lie beside this file: --as-recorded --results scripts/benchmarks/growth.jsonl.gz
"""

from __future__ import annotations

import argparse
from pathlib import Path

from esper.config.aliases import POLICIES
from growth_arms.arms import ARMS
from growth_arms.pool import keys, run_missing
from growth_arms.rows import chosen, read_rows, recorded
from growth_arms.tasks import TASKS


def main() -> None:
    args = _arguments()
    tasks = {name: TASKS[name] for name in args.tasks}
    seeds = args.seed_list if args.seed_list is not None else list(range(args.seeds))
    wanted = keys(list(tasks.values()), args.arms, seeds, args.topologies, args.policy)
    if args.results.suffix == ".gz" and not (args.report_only or args.as_recorded):
        raise SystemExit(f"growth: {args.results} is a record; expected --as-recorded or another file")
    if not (args.report_only or args.as_recorded):
        run_missing(wanted, tasks, args.results, args.policy, args.jobs)
    rows = read_rows(args.results)
    rows = recorded(rows, wanted) if args.as_recorded else chosen(rows, wanted)
    if not rows:
        raise SystemExit(f"growth: none of these runs is in {args.results}")
    if args.table:
        from growth_arms.table import report

        print(report(list(tasks.values()), rows))
    if args.plot is not None:
        from growth_arms.plot import draw

        draw(list(tasks.values()), rows, args.plot)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="growth", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add = parser.add_argument
    add("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    listed = "\n".join(f"{name:13} {what}" for name, what in ARMS.items())
    add("--arms", nargs="+", default=list(ARMS), choices=list(ARMS), metavar="ARM", help=listed)
    add("--seeds", type=_count, default=10, help="how many, from 0 on")
    add("--seed-list", type=_seed, nargs="+", help="these seeds instead")
    add("--topologies", type=int, default=30, help="how many a sweep tries")
    add(
        "--policy",
        default="heuristic",
        choices=sorted(POLICIES),
        help="whose choices esper's arm is: an option of morphogenetic/policy",
    )
    add("--jobs", type=_count, default=2, help="processes at a time, one thread each")
    add("--results", type=Path, default=Path("outputs/benchmarks/growth.jsonl"))
    add("--report-only", action="store_true", help="run nothing")
    add("--as-recorded", action="store_true", help="report runs of other configurations than today's, too")
    add("--table", action=argparse.BooleanOptionalAction, default=True)
    add("--plot", type=Path, metavar="FILE", help="a picture, .png or .svg")
    return parser.parse_args()


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is not at least 1")
    return number


def _seed(text: str) -> int:
    if (number := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"{number} is not at least 0")
    return number


if __name__ == "__main__":
    main()
