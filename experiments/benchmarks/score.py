"""How fast exact ranking is, beside what else computes the same: corpora, lists, single requests.

    python -m experiments.benchmarks.score --json=score.json
    python -m experiments.benchmarks.score --parts corpus --queries 64 --items 1000000

    corpus     the best of a million and of 10 million items, see `score_corpus`
    lists      64 requests with 100 thousand candidates each, see `score_lists`
    latency    one request, see `score_latency`
    formats    scans in fewer bits, see `score_formats`

Each part is measured in a process of its own, with the machine's best kernels; a peer that is not
installed gives null. On a busy machine take figures from an idle one: see `load_average`.
"""

import importlib
from typing import Any

from experiments.benchmarks import reporting

PARTS = ("corpus", "lists", "latency", "formats")


def main(argv: list[str] | None = None) -> dict[str, Any]:
    """Parses the command line, measures, prints and returns the figures."""
    parser = reporting.parser(__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=7, help="of the corpus; fewer of large ones")
    parser.add_argument("--queries", type=int, nargs="+", help="of the corpus, at once")
    parser.add_argument("--items", type=int, nargs="+", help="of the corpus")
    arguments = parser.parse_args(argv)
    figures: dict[str, Any] = {}
    for part in arguments.parts:
        figures |= importlib.import_module(f"{__package__}.score_{part}").measure(arguments)
    reporting.report("score", arguments, figures)
    return figures


if __name__ == "__main__":
    main()
