"""common/results.py: read_csv on rows that were written, and on any bytes."""

from common.cli import UserError
from common.results import Row, read_csv, write_csv
from hypothesis import given, settings
from hypothesis import strategies as st
from plot_helpers import INF, NAN, make_run, plateau

HEADER = "epoch,loss,accuracy,train_loss,train_accuracy,seconds\n"


def equal(first, second):
    """Whether two lists of Row are equal, NaN to NaN."""
    return repr(first) == repr(second)


def test_rows_come_back(tmp_path):
    rows = [Row(1, 2299.4792, 0.122, 460.123456789, 0.1, 97.25), Row(2, NAN, 0.99, INF, 0.5, 1e-7), Row(3, -INF, 0.0)]
    write_csv(tmp_path / "alexnet2.csv", rows)
    assert equal(read_csv(tmp_path / "alexnet2.csv"), rows)


numbers = st.floats() | st.none()
values = st.tuples(st.floats(), st.floats(0, 1), numbers, numbers, numbers)


@given(st.lists(values, min_size=1, max_size=9))
def test_any_rows_come_back(tmp_path_factory, curve):
    rows = [Row(epoch, *value) for epoch, value in enumerate(curve, start=1)]
    path = tmp_path_factory.getbasetemp() / "rows.csv"
    write_csv(path, rows)
    assert equal(read_csv(path), rows)


fields = st.sampled_from(
    ["1", "0.5", "nan", "-inf", "", " 1", "1_0", "\uff11", "1e999", "x", "\x0b", "\u2028", "\r", '"1"', '"', "\0"]
)
header = st.sampled_from([HEADER, "epoch,loss,accuracy\n", "epoch,loss,accuracy,epoch\n", "epoch,loss,accuracy,\n"])
nearly = st.builds(
    lambda head, rows, end: (head + "".join(f"{i},{','.join(row)}\n" for i, row in enumerate(rows, 1)) + end).encode(),
    header,
    st.lists(st.lists(fields, min_size=2, max_size=5), max_size=4),
    st.sampled_from(["", "", "\r\n", "\n", "\r", "3"]),
)


@settings(max_examples=400)
@given(st.binary(max_size=200) | st.binary(max_size=80).map(HEADER.encode().__add__) | nearly)
def test_any_bytes_are_rows_or_a_user_error(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(content)
    try:
        rows = read_csv(path)
    except UserError as error:
        assert str(error).startswith(str(path)) and len(str(error).splitlines()) == 1
        return
    assert [row.epoch for row in rows] == list(range(1, len(rows) + 1)) and rows
    assert all(0 <= row.accuracy <= 1 and isinstance(row.loss, float) for row in rows)
    write_csv(path, rows)
    assert equal(read_csv(path), rows)


def test_a_csv_saved_by_excel_is_read(tmp_path):
    path = make_run(tmp_path, "alexnet2", plateau(3))
    rows = read_csv(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_csv(path) == rows
