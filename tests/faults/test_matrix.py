"""Every row of the fault matrix holds, and fails where its defect is put back."""

import builtins
import pkgutil
import re

import pytest

from faults.harness import Bench, all_rows, seeded

ROWS = all_rows()


@pytest.fixture(scope="session")
def shared(shared_folder):
    return shared_folder / "faults"


def parameters(slow):
    return [pytest.param(row, id=row.number, marks=[pytest.mark.slow] * slow(row)) for row in ROWS]


@pytest.fixture
def bench(tmp_path, shared, request):
    made = Bench(tmp_path / "row", shared)
    yield made
    made.end()


@pytest.mark.parametrize("row", parameters(lambda row: row.slow))
def test_row(row, bench):
    if why := row.needs():
        pytest.skip(why)
    row.check(bench)


@pytest.mark.parametrize("row", parameters(lambda row: row.slow or row.defect_slow))
def test_the_row_sees_its_defect(row, bench):
    if why := row.needs():
        pytest.skip(why)
    bench.defect = row.defect
    with seeded(row.defect):
        try:
            row.check(bench)
        except Exception:
            return
    pytest.fail("the defect was not seen")


@pytest.mark.parametrize("row", [pytest.param(row, id=row.number) for row in ROWS])
def test_a_defect_replaces_what_is_there(row):
    """Else a name that was moved would leave the program without its defect."""
    for target in re.findall(r'patch\("([\w.]+)"', row.defect):
        owner, _, name = target.rpartition(".")
        assert hasattr(pkgutil.resolve_name(owner), name) or hasattr(builtins, name), target


def test_numbers_are_unique():
    assert len({row.number for row in ROWS}) == len(ROWS)
