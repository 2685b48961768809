"""Draw the curves of results/, and print the article's figures beside ours.

python plot_results.py            the seven experiments, from results/
python plot_results.py FOLDER     those of another folder
python plot_results.py CSV CSV    only these runs

Runs of several folders are drawn apart, those of all but the first dashed:
python plot_results.py results/alexnet2.csv mine/alexnet2.csv

Of an experiment that was run in several ways the pictures show the article's
protocol, in the precision that came furthest; in a folder of shortened runs,
the run that trained on most images; with --all, every run. In accuracy.png and
loss.png the article's figures are hollow markers. gap.png and iterations.png
are about the NaNs, and also show runs with the fused loss.
"""

from pathlib import Path

from common.cli import Parser, UserError, user_errors
from common.plots.curves import article, comparable_figures, load_groups, most_complete
from common.plots.pictures import STYLE, draw_epochs, draw_gap, draw_iterations, fingerprint
from common.plots.tables import COMPARED, DETAILED, comparison, details
import matplotlib
import matplotlib.pyplot as plt

RESULTS = Path(__file__).resolve().parent / "results"


def parse(arguments):
    """The flags as a namespace."""
    parser = Parser(__doc__, prog="plot_results.py")
    parser.add_argument("paths", nargs="*", type=Path, metavar="CSV or FOLDER", help="what to plot (results/)")
    parser.add_argument("--all", action="store_true", help="draw every run: shortened ones, both precisions, ...")
    parser.add_argument("--no-article", action="store_true", help="draw only our curves")
    parser.add_argument("--details", action="store_true", help="also print a line per run: speed, NaN, logit gap")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown, and draw nothing")
    parser.add_argument("--show", action="store_true", help="also open a window")
    parser.add_argument("--output-dir", type=Path, metavar="DIR", help="for the pictures (last FOLDER, or else here)")
    args = parser.parse_args(arguments)
    args.paths = args.paths or [RESULTS]
    return args


def output_dir(args):
    """The folder for the pictures: the one that was named or, failing that, the last one plotted, else this one."""
    if args.output_dir:
        return args.output_dir
    folder = next((path for path in reversed(args.paths) if path.is_dir()), Path())
    if folder.resolve() == RESULTS and [path.resolve() for path in args.paths] != [RESULTS]:
        raise UserError("the pictures in results/ show its runs alone; name another --output-dir")
    return folder


def tables(groups, missing_experiments, args):
    """The tables that the flags ask for, as one text."""
    texts = [comparison(groups, missing_experiments, args.markdown), COMPARED]
    if args.details:
        texts += ["", details(groups, args.markdown), DETAILED]
    return ("\n\n" if args.markdown else "\n").join(texts)


def figures(groups, named, missing_experiments, args):
    """Return {name: figure} of what the flags ask for."""

    def chosen(*variants):
        found = groups if args.all else most_complete(groups, variants)
        return [group for group in groups if group in found or any(run.path in named for run in group.runs)] or groups

    points = {} if args.no_article else comparable_figures(chosen(), missing_experiments)
    made = {field: draw_epochs(chosen(), field, points) for field in ("accuracy", "loss")}
    made |= {"gap": draw_gap(chosen("fused")), "iterations": draw_iterations(chosen("fused"))}
    return {name: figure for name, figure in made.items() if figure}


def save(figure, path):
    """Write a figure with its fingerprint, and without Matplotlib's version: equal input gives equal bytes."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata={"Software": None, "Comment": fingerprint(figure)})
    except OSError as error:
        raise UserError(f"{error.filename or path}: {error.strerror or error}; name another --output-dir") from None


def main(arguments=None):
    """Read the runs, write the pictures, then print the table; UserError for bad input."""
    args = parse(arguments)
    try:
        groups = load_groups(args.paths)
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}; name another CSV or folder") from None
    named = {path for path in args.paths if not path.is_dir()}
    # In a study's folder, missing experiments are worth reporting.
    full_protocol = any(not group.variant_tags for group in groups)
    missing_experiments = article() if full_protocol and not named else ()
    if args.markdown:
        print(tables(groups, missing_experiments, args), flush=True)
        return
    if not args.show:
        matplotlib.use("Agg")
    elif matplotlib.get_backend().lower() == "agg":
        raise UserError("--show: there is no display to open a window on; leave it out")
    folder, written = output_dir(args), []
    with plt.style.context(["default", STYLE]):
        for name, figure in figures(groups, named, missing_experiments, args).items():
            written.append(folder / f"{name}.png")
            save(figure, written[-1])
        print(
            tables(groups, missing_experiments, args),
            "\n".join(f"wrote {path}" for path in written),
            sep="\n\n",
            flush=True,
        )
        if args.show:
            plt.show()
        plt.close("all")


if __name__ == "__main__":
    with user_errors():
        main()
