"""The claims of the five papers, measured: ``python -m experiments [NAME …] --seeds 5``.

NAME is a claim (D1) or a family (drpo); all by default. Prints each claim with its figures, thresholds and verdict as it
is decided, and writes <out>.json and <out>.md; figures of claims that were not run again are kept from <out>.json.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from experiments.claims import FAMILIES, run
from experiments.claims.claim import Setting


def main() -> None:
    """Run the studies that were asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/claims"), help="where figures of trained decoders are kept"
    )
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: does everything run?")
    parser.add_argument("--jobs", type=int, default=1, help="claims at a time, one thread each")
    parser.add_argument("--out", type=Path, default=Path("docs/results/claims"))
    options = parser.parse_args()
    known = {claim.id: claim for family in FAMILIES.values() for claim in family}
    chosen = [claim for name in options.names or FAMILIES for claim in FAMILIES.get(name, (known.get(name),))]
    if None in chosen:
        sys.exit(
            f"there is no claim or family among {options.names} of that name; choose from {', '.join([*FAMILIES, *known])}"
        )
    run(chosen, Setting(options.seeds, options.runs, options.smoke), options.jobs, options.out)


if __name__ == "__main__":
    main()
