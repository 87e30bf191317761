"""The claims of the five papers, measured: ``python -m experiments [NAME …] --seeds 5``.

NAME is a claim (D1) or a family (drpo); all by default. Every figure is kept under --runs as soon as it is known and not
measured again: a run that was stopped goes on, and a claim whose study has changed is measured anew once its files there
are deleted. Prints each claim with its verdict and writes <out>.json and <out>.md after every seed of a family; claims
that were not named are kept from <out>.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from experiments.claims.families import FAMILIES, KNOWN
from experiments.claims.page import details, page
from experiments.claims.run import measured, row
from poise.output import replacing


def main() -> None:
    """Run the studies that were asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs", type=Path, default=Path("runs/claims"), help="where figures of every seed are kept")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does everything run?")
    parser.add_argument("--jobs", type=int, default=1, help="processes, one thread each")
    parser.add_argument("--out", type=Path, default=Path("docs/results/claims"))
    parser.add_argument("--page", action="store_true", help="measure nothing; write what is known by now")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in FAMILIES and name not in KNOWN]
    if unknown:
        sys.exit(f"there is no claim or family {', '.join(unknown)}; choose from {', '.join([*FAMILIES, *KNOWN])}")
    families = {name: [claim.id for claim in family.claims] for name, family in FAMILIES.items()}
    chosen = [one for name in options.names or FAMILIES for one in families.get(name, [name])]
    runs = options.runs / "smoke" if options.smoke else options.runs
    if options.page:
        write(chosen, runs, options.seeds, options.out)
        return
    for done in measured(chosen, options.seeds, runs, options.smoke, options.jobs):
        write(chosen, runs, options.seeds, options.out)
        record = json.loads(options.out.with_suffix(".json").read_text("utf8"))
        for name in done:
            print(details(KNOWN[name], record[name]), flush=True)


def write(chosen: list[str], runs: Path, seeds: int, out: Path) -> None:
    """The record, with what is known of the chosen claims by now, and the page made from it."""
    path = out.with_suffix(".json")
    old = json.loads(path.read_text("utf8")) if path.exists() else {}
    new = {name: found for name in chosen if (found := row(KNOWN[name], runs, seeds))}
    record = {name: (old | new)[name] for name in KNOWN if name in old | new}
    out.parent.mkdir(parents=True, exist_ok=True)
    for file, text in ((path, json.dumps(record, indent=1) + "\n"), (out.with_suffix(".md"), page(record))):
        with replacing(file) as partial:
            partial.write_text(text, encoding="utf8")


if __name__ == "__main__":
    main()
