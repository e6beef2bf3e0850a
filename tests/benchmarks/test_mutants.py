"""One-line mutants: which there are, that they stay the same while lines move, and that tests in a fork see them."""

import textwrap

import pytest

SOURCE = '''
def clipped(values, mask, low=0.5):
    """A docstring: 1 < 2."""
    total = 0
    for value in values:
        if value < low and mask is not None:
            continue
        total += value
    log.info("%s of %s", 1, 2)
    return scale(total, low, clip=True) + 1
'''


@pytest.fixture
def mutating():
    import mutating

    return mutating


def changes(mutating, source, kind):
    """Lines after the change, of one kind."""
    return {m.becomes for m, place in mutating.mutants_of("f.py", source) if m.kind == kind}


def test_each_kind(mutating):
    assert changes(mutating, SOURCE, "comparison") == {
        "if value <= low and mask is not None:",
        "if value < low and mask is None:",
        "if (not (value < low and mask is not None)):",
    }
    assert changes(mutating, SOURCE, "constant") == {
        "def clipped(values, mask, low=1.0):",
        "total = 1",
        "return scale(total, low, clip=False) + 1",
        "return scale(total, low, clip=True) + 2",
    }
    assert changes(mutating, SOURCE, "statement") == {"pass"}
    assert changes(mutating, SOURCE, "argument") == {
        "return scale(low, total, clip=True) + 1",
        "return scale(total, low) + 1",
    }
    assert changes(mutating, SOURCE, "term") == {
        "if (value < low):",
        "if (mask is not None):",
        "return (scale(total, low, clip=True))",
        "return (1)",
    }
    masks = "def f(x, mask):\n    y = x.masked_fill(mask, 0)\n    return attend(y, mask=mask) & ~mask\n"
    assert changes(mutating, masks, "mask") == {
        "y = x",
        "y = x.masked_fill(None, 0)",
        "return attend(y, mask=None) & ~mask",
        "return (attend(y, mask=mask))",
        "return (~mask)",
        "return attend(y, mask=mask) & (mask)",
    }


def test_messages_annotations_and_assertions_stay(mutating):
    source = (
        "def f(x: list[1] = ()) -> Literal[2]:\n    assert x[0] > 3\n    y: int[5] = x\n    return f'{x[7]} {y + 1}'\n"
    )
    assert list(mutating.mutants_of("f.py", source)) == []


def test_a_mutant_is_the_same_after_its_line_has_moved(mutating):
    before = mutating.draw({"f.py": SOURCE}, number=6, seed=1, least=1)
    after = mutating.draw({"f.py": "import os\n\n" + SOURCE}, number=6, seed=1, least=1)
    assert set(before) == set(after)
    assert len(before) == 6
    assert {place.number for place in after.values()} == {place.number + 2 for place in before.values()}
    other = mutating.draw({"f.py": SOURCE}, number=6, seed=2, least=1)
    assert set(other) != set(before)
    known = {mutant.identity for mutant in before}
    assert set(mutating.draw({"f.py": SOURCE}, number=6, seed=2, known=known, least=1)) == set(before)
    assert set(before) < set(mutating.draw({"f.py": SOURCE}, number=9, seed=2, known=known, least=1))
    moved = mutating.draw({"g.py": SOURCE}, number=6, seed=2, known=known, least=1)
    assert {mutant.identity for mutant in moved} == known


def test_what_cannot_be_parsed_or_means_the_same_is_not_drawn(mutating):
    source = "x = [\n    1,\n]\nif a:\n    b()\n"
    mutant = mutating.Mutant("f.py", "", "term", "b()", "b(")
    place = mutating.Place(5, 1, 6)
    assert not mutating.is_other_program(source, mutant, place)
    assert not mutating.is_other_program(source, mutating.Mutant("f.py", "", "term", "b()", "(b())"), place)
    assert mutating.is_other_program(source, mutating.Mutant("f.py", "", "term", "b()", "c()"), place)


@pytest.fixture
def tree(tmp_path):
    """A package of one function with tests that see half of it."""
    package = tmp_path / "tree" / "src" / "multihead"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "edge.py").write_text(
        "def above(x, edge):\n    return x > edge\n\n\ndef unseen(x):\n    return x + 1\n\n\ndef endless(n):\n"
        "    while n > 0:\n        n -= 1\n    return n\n"
    )
    tests = tmp_path / "tree" / "tests"
    tests.mkdir()
    (tests / "test_edge.py").write_text(
        textwrap.dedent("""
        import pytest

        @pytest.fixture(scope="module")
        def edge():
            from multihead.edge import endless
            return endless(3)

        def test_above(edge):
            from multihead.edge import above
            assert above(1, edge)

        def test_at_the_edge():
            from multihead.edge import above
            assert not above(1, 1)
        """)
    )
    return tmp_path / "tree"


def test_in_a_fork(tree, tmp_path, monkeypatch, mutating):
    pytest.importorskip("coverage")
    import forked
    import mutants

    monkeypatch.setitem(mutants.HOMES, "edge.py", ["tests/test_edge.py"])
    found = forked.Child.start(forked.map_tests, "tests/test_edge.py", tree, tmp_path / "scratch", 60).wait()
    assert all(test["passed"] for test in found["tests"].values())
    found = {"tests/test_edge.py": found}
    path = tree / "src" / "multihead" / "edge.py"
    source = path.read_text()

    def verdict(line, becomes, limit=60.0):
        places = dict(mutating.mutants_of("edge.py", source))
        mutant = next(m for m in places if (m.line, m.becomes) == (line, becomes))
        tests, _, by = mutants.tests_for(mutant, places[mutant], found, budget=60.0)
        path.write_text(places[mutant].apply(source, mutant))
        result = forked.Child.start(forked.run_tests, tests, tree, tmp_path / "scratch", limit).wait()
        return len(tests), by, result.get("timed_out") or (result["code"], result["failed"].partition("::")[2])

    assert verdict("return x > edge", "return x >= edge") == (2, "line", (1, "test_at_the_edge"))
    assert verdict("return x + 1", "return x + 2") == (2, "file", (0, ""))  # no test runs it
    assert verdict("n -= 1", "pass", limit=3.0) == (1, "line", True)  # by the fixture of the one test that asks for it


def test_the_table(tmp_path, mutating):
    import mutants

    results = mutants.Results(str(tmp_path / "results"))
    first, second, third, fourth, gone = (mutating.Mutant("a.py", "f", "term", "a + b", text) for text in "abcde")
    for mutant, status, commit in [
        (first, "survived", "1234567"),
        (first, "killed", "2345678"),
        (second, "timed out", "1234567"),
        (third, "survived", "1234567"),
        (fourth, "survived", "2345678"),
        (gone, "survived", "1234567"),
    ]:
        results.add(mutant, {"status": status, "commit": commit})
    text = mutants.Results(str(tmp_path / "results")).report(
        [first, second, third, fourth], {third.identity: "why"}, "123"
    )
    assert "| a.py | 4 | 1 | 0 | 1 | 2 | 33.3% | 4 | 1 | 1 | 1 | 1 | 66.7% |" in text
    assert "| **all** | 4 | 1 | 0 | 1 | 2 | 33.3% | 4 | 1 | 1 | 1 | 1 | 66.7% |" in text
    assert text.count(f"- a.py: `{fourth.identity}`\n") == 1 and gone.identity not in text
    assert f"- a.py: `{third.identity}`: why\n" in text
