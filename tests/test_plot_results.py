"""plot_results.py: which runs and pictures a command line means, and the error lines."""

import os
from pathlib import Path
import re
import shutil
import subprocess
import sys

from common.cli import UserError
from common.plots.curves import TITLES, article, load_groups, title
from common.plots.pictures import fingerprint
from common.plots.tables import COMPARED, DETAILED, comparison, details
import matplotlib
from PIL import Image
from plot_helpers import NAN, make_run, plateau
import pytest
from test_results import HEADER
from test_scripts import SMALL

import plot_results
from plot_results import main

SCRIPT = Path(plot_results.__file__)
PICTURES = ["accuracy.png", "loss.png"]


def pictures(folder):
    return sorted(path.name for path in folder.glob("*.png"))


def test_pictures_are_where_they_should_be_and_the_same_every_time(tmp_path, capsys):
    folder = tmp_path / "résultats 结果 of mine"
    make_run(folder, "alexnet2", [2300.0, 30.0, NAN], nan_weights=3, gap=[0.5, 80.0, 88.0])
    make_run(folder, "alexnet2-seed1", [2300.0, 30.0, 20.0])
    main([str(folder)])
    names = ["accuracy.png", "gap.png", "loss.png"]
    assert pictures(folder) == names and f"wrote {folder / 'loss.png'}" in capsys.readouterr().out
    other = tmp_path / "new" / "er"
    main([str(folder / "alexnet2.csv"), str(folder), "--output-dir", str(other)])
    assert (other / "gap.png").read_bytes() == (folder / "gap.png").read_bytes()
    main([str(folder), "--output-dir", str(other)])
    assert all((other / name).read_bytes() == (folder / name).read_bytes() for name in names)


def test_the_pictures_of_results_change_only_with_results(tmp_path, monkeypatch, capsys):
    results, here = tmp_path / "results", tmp_path / "here"
    monkeypatch.setattr(plot_results, "RESULTS", results)
    path = make_run(results, "alexnet4", [170.0, 90.0])
    main([])
    assert pictures(results) == PICTURES
    (results / "loss.png").write_text("as it was")
    here.mkdir()
    monkeypatch.chdir(here)
    main([str(path)])
    assert pictures(here) == PICTURES
    main([str(make_run(results / "short", "alexnet4-epochs1", [170.0]).parent)])
    assert pictures(results / "short") == PICTURES and (results / "loss.png").read_text() == "as it was"
    monkeypatch.chdir(results)
    with pytest.raises(UserError, match="name another --output-dir"):
        main(["alexnet4.csv"])
    assert (results / "loss.png").read_text() == "as it was"
    main(["."])
    assert (results / "loss.png").read_bytes().startswith(b"\x89PNG")


def legends(folder, monkeypatch, *arguments):
    """The legends of accuracy.png and of gap.png, if there is one, as main draws them."""
    found = {}

    def read_legend(figure, path):
        found[path.stem] = [text.get_text() for text in figure.legends[0].get_texts()]

    monkeypatch.setattr(plot_results, "save", read_legend)
    main([*map(str, arguments), "--output-dir", str(folder)])
    return found["accuracy"], found.get("gap")


def test_seven_curves_are_what_a_reader_sees(tmp_path, monkeypatch, capsys):
    for number in TITLES:
        make_run(tmp_path, f"alexnet{number}-mixed", plateau(3), gap=[9.0] * 10)
    make_run(tmp_path, "alexnet2-fused-mixed", plateau(3), gap=[9.0] * 10)
    make_run(tmp_path, "alexnet2-epochs20", plateau(3, 20))
    seven = [f"{number} {title(number)}" for number in TITLES]
    notes = ["hollow: the article's figures", "alternating colours: lines that coincide", "in mixed precision: all"]
    accuracy, gap = legends(tmp_path, monkeypatch, tmp_path)
    assert accuracy == seven + notes and gap == [*seven[:2], "2 fused", *seven[2:], *notes[1:]]
    assert "2 epochs20" in capsys.readouterr().out
    accuracy, gap = legends(tmp_path, monkeypatch, tmp_path, "--all", "--no-article")
    assert accuracy[:4] == [*seven[:2], "2 stddev 0.01 (20 epochs)", "2 fused"] and notes[0] not in accuracy
    accuracy, gap = legends(tmp_path, monkeypatch, tmp_path / "alexnet2-epochs20.csv")
    assert accuracy == ["2 stddev 0.01 (20 epochs)", notes[0]] and gap is None
    accuracy, _ = legends(tmp_path, monkeypatch, tmp_path, tmp_path / "alexnet2-epochs20.csv")
    assert len(accuracy) == 7 + 1 + 3


def test_runs_of_two_folders_are_drawn_apart(tmp_path, monkeypatch, capsys):
    ours, mine = tmp_path / "results", tmp_path / "mine"
    committed = make_run(ours, "alexnet2", plateau(3), gap=[9.0] * 10)
    make_run(ours, "alexnet4", plateau(2))
    own = make_run(mine, "alexnet2", plateau(5), gap=[8.0] * 10)
    short = make_run(tmp_path / "short", "alexnet6-train2000", plateau(2)).parent
    accuracy, gap = legends(tmp_path, monkeypatch, committed, own)
    assert accuracy[:2] == ["2 stddev 0.01", "2 stddev 0.01, mine"] and gap[:2] == accuracy[:2]
    table = capsys.readouterr().out
    assert re.findall(r"^2 (?:ours|mine) +1 +(\d)", table, re.MULTILINE) == ["3", "5"]
    accuracy, _ = legends(tmp_path, monkeypatch, ours, mine, short, committed)
    assert accuracy[:4] == [*gap[:2], "4 get_variable", "6 batch norm, short (2,000 images)"]
    monkeypatch.undo()
    main([str(ours), str(mine)])
    assert pictures(mine) == ["accuracy.png", "gap.png", "loss.png"] and pictures(ours) == []


@pytest.mark.parametrize("folder", ["results", "results/short"])
def test_the_committed_pictures_are_what_the_command_draws(folder, monkeypatch, capsys):
    """python plot_results.py, and python plot_results.py results/short."""
    root, drawn = SCRIPT.parent, {}
    command = ["git", "ls-files", "--", f":(glob){folder}/*.png"]
    committed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.split()
    committed = [path for path in committed if path != "results/step0.png"]  # that of python -m tests.step0
    monkeypatch.setattr(plot_results, "save", lambda figure, path: drawn.update({path.stem: fingerprint(figure)}))
    main([str(root / folder)])
    names = [Path(path).stem for path in committed]
    assert names == (["iterations"] if folder == "results/short" else sorted(drawn))
    stored = {name: Image.open(root / folder / f"{name}.png").text["Comment"] for name in names}
    assert stored == {name: drawn[name] for name in names}  # else: python plot_results.py FOLDER


def test_an_experiment_without_a_run_has_the_article_s_points(tmp_path, monkeypatch, capsys):
    make_run(tmp_path, "alexnet1", [NAN] * 50, nan_weights=1)
    accuracy, _ = legends(tmp_path, monkeypatch, tmp_path)
    reported = [label for label in accuracy if "(the article)" in label]
    assert reported == [f"{number} {title(number)} (the article)" for number in range(2, 7)]


def test_markdown_prints_the_table_and_draws_nothing(tmp_path, capsys):
    make_run(tmp_path, "alexnet2", plateau(3))
    main([str(tmp_path), "--markdown", "--details"])
    groups, out = load_groups([tmp_path]), capsys.readouterr().out
    tables = [comparison(groups, article(), markdown=True), COMPARED, "", details(groups, markdown=True), DETAILED]
    assert out == "\n\n".join(tables) + "\n" and "\n| 6 the article |" in out and pictures(tmp_path) == []


def bad_content(text):
    return lambda folder: (folder / "alexnet2.csv").write_text(text) and folder


def bad_name(folder):
    return make_run(folder, "alexnet2 (copy)", [1.0])


def bad_record(text):
    def write(folder):
        make_run(folder, "alexnet2", [1.0])
        (folder / "alexnet2.json").write_text(text)
        return folder

    return write


SHORT_HEADER = "epoch,loss,accuracy\n"
BAD = {
    "empty": (lambda folder: (folder / "alexnet2.csv").touch() or folder, "line 1: the columns do not begin"),
    "header only": (bad_content(HEADER), "no rows"),
    "cut": (bad_content(HEADER + "1,2300.0,0.1,460.0,0.1,9"), "cut off in the middle"),
    "short row": (bad_content(HEADER + "1,2300.0,0.1\n"), "line 2: not 6 fields, as in the header"),
    "long row": (bad_content(SHORT_HEADER + "1,2,0.1,1\n"), "line 2: not 3 fields, as in the header"),
    "empty line": (bad_content(SHORT_HEADER + "1,2,0.1\n\n2,2,0.1\n"), "line 3: an empty line"),
    "text": (bad_content(SHORT_HEADER + "1,many,0.1\n"), "'many'"),
    "quotes": (bad_content(SHORT_HEADER + '1,"2",0.1\n'), "'\"2\"'"),
    "epoch missing": (bad_content(SHORT_HEADER + "1,2,0.1\n3,2,0.1\n"), "line 3: epoch '3' instead of 2"),
    "epoch twice": (bad_content(SHORT_HEADER + "1,2,0.1\n1,2,0.1\n"), "line 3: epoch '1' instead of 2"),
    "accuracy in %": (bad_content(SHORT_HEADER + "1,2,98.8\n"), "accuracy outside 0 to 1"),
    "no CSV": (lambda folder: folder, "no run's CSV here"),
    "no path": (lambda folder: folder / "nowhere", "no such file or folder"),
    "long path": (lambda folder: folder / ("x" * 300), "name"),
    "name": (bad_name, "alexnet2 (copy).csv: not a run's name"),
    "folder as CSV": (lambda folder: (folder / "alexnet2.csv").mkdir() or folder, "name a CSV that a run has written"),
    "no JSON": (bad_record("{"), "alexnet2.json: "),
    "record of numbers": (bad_record('{"complete": true, "nan_weights": 5}'), "not a run's record"),
    "record without flags": (bad_record('{"complete": false, "nan_weights": null}'), "not a run's record"),
    "endless record": (bad_record('{"complete": true, "nan_weights": {"epoch": Infinity}}'), "not a run's record"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_line(tmp_path, kind):
    prepare, message = BAD[kind]
    paths = prepare(tmp_path)
    with pytest.raises(UserError) as error:
        main([str(path) for path in (paths if isinstance(paths, tuple) else [paths])])
    assert message in str(error.value) and "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value) and "; " in str(error.value)


def test_an_output_folder_that_is_a_file_is_refused(tmp_path, capsys):
    path = make_run(tmp_path, "alexnet2", plateau(3))
    with pytest.raises(UserError, match="name another --output-dir"):
        main([str(tmp_path), "--output-dir", str(path)])
    (tmp_path / "loss.png").mkdir()
    with pytest.raises(UserError, match="loss.png: Is a directory; name another --output-dir"):
        main([str(tmp_path)])


def test_show_without_a_display_is_refused(tmp_path, monkeypatch):
    make_run(tmp_path, "alexnet2", plateau(3))
    monkeypatch.setattr(matplotlib, "get_backend", lambda: "agg")
    with pytest.raises(UserError, match="--show: there is no display"):
        main([str(tmp_path), "--show"])


def run_script(*arguments):
    done = subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr
    return done


def test_the_script_succeeds_quietly(tmp_path):
    folder = tmp_path / "è 空"
    make_run(folder, "alexnet2", plateau(3))
    done = run_script(folder)
    assert (done.returncode, done.stderr) == (0, "") and "2 ours" in done.stdout
    assert (folder / "accuracy.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("kind", ["cut", "no path"])
def test_the_script_fails_with_one_line_and_code_2(tmp_path, kind):
    prepare, message = BAD[kind]
    done = run_script(prepare(tmp_path))
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith("plot_results.py: error: ") and message in done.stderr


def test_an_unknown_flag_is_one_line():
    done = run_script("--colour")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "--colour" in done.stderr


def test_plots_do_not_import_tensorflow():
    code = "import sys, plot_results; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=SCRIPT.parent, timeout=120).returncode == 0


def test_pictures_are_written_although_stdout_is_closed(tmp_path):
    make_run(tmp_path / "closed", "alexnet2", plateau(3))
    shutil.copytree(tmp_path / "closed", tmp_path / "broken")
    for folder, command in {"closed": '"$@" >&-', "broken": '"$@" | true'}.items():
        shell = ["bash", "-c", f"set -o pipefail; {command}", "bash", sys.executable, SCRIPT, tmp_path / folder]
        done = subprocess.run(shell, capture_output=True, text=True, timeout=120)
        assert done.stderr == "" and done.returncode == {"closed": 0, "broken": 141}[folder]
        assert pictures(tmp_path / folder) == PICTURES


def test_pictures_are_written_before_the_tables_are_printed(tmp_path, monkeypatch):
    make_run(tmp_path, "alexnet2", plateau(3))

    def gone(*_, **__):
        assert pictures(tmp_path) == PICTURES
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", gone)
    with pytest.raises(BrokenPipeError):
        main([str(tmp_path)])


@pytest.mark.slow
def test_an_eighth_experiment(tmp_path):
    shutil.copytree(SCRIPT.parent / "common", tmp_path / "common", ignore=shutil.ignore_patterns("__pycache__"))
    tests = "tests/conftest.py", "tests/test_networks.py"
    for name in ("plot_results.py", "results/article.csv", "pyproject.toml", *tests):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(SCRIPT.parent / name, tmp_path / name)
    for script in SCRIPT.parent.glob("alexnet[1-7].py"):
        shutil.copy(script, tmp_path)
    text = (tmp_path / "alexnet2.py").read_text("utf-8").replace("stddev=0.01)", "stddev=0.02)")
    text = text.replace("experiment 2: initial values with a small standard deviation.", "experiment 8: stddev 0.02.")
    (tmp_path / "alexnet8.py").write_text(text, "utf-8")
    fixture = tmp_path / "tests" / "conftest.py"
    fixture.write_text(fixture.read_text("utf-8").replace("range(1, 8)", "range(1, 9)"), "utf-8")

    def python(*arguments):
        done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "is complete" in python("alexnet8.py", *SMALL, "--no-weights")
    out = python("plot_results.py")
    assert "8 train16 test20" in out
    assert pictures(tmp_path / "results") == ["accuracy.png", "gap.png", "iterations.png", "loss.png"]
    assert python("-c", "from common.plots.curves import title; print(title(8))") == "stddev 0.02\n"
    checks = ["tests/test_networks.py", "-k", "alexnet8 and (shape or gradient or dropout)"]
    assert "4 passed" in python("-m", "pytest", "-q", "-p", "no:cacheprovider", *checks)


def test_a_notebook_s_matplotlib_backend_is_ignored(tmp_path):
    """Cells pass on MPLBACKEND, for a module that the script's environment may lack, and %run a stdout of their own."""
    make_run(tmp_path, "alexnet2", plateau(3))
    environment = {**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    code = "import runpy, sys; from types import SimpleNamespace; out = sys.stdout; sys.argv.pop(0); "
    code += "sys.stdout = SimpleNamespace(write=out.write, flush=out.flush); "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    for command in [str(SCRIPT), str(tmp_path)], ["-c", code, str(SCRIPT), str(tmp_path)]:
        done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        assert "wrote" in done.stdout
    done = subprocess.run(
        [sys.executable, "-c", "import common, matplotlib.figure"], env=environment, cwd=SCRIPT.parent, text=True
    )
    assert done.returncode == 0
