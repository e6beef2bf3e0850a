"""The page of records is what its command writes; a goal is open until a record of its class reaches it."""

import dataclasses

import pytest

from multihead.config.record import FOLDER, read_record


@pytest.fixture
def shipped():
    return [read_record(str(file)) for file in sorted(FOLDER.glob("*.yaml"))]


def test_the_page_is_what_its_command_writes(shipped):
    import records_table

    text = records_table.PAGE.read_text(encoding="utf-8")
    assert records_table.page(text, shipped) == text, "fix: python benchmarks/records_table.py"
    for record in shipped:
        assert text.count(f"### {record.name}\n") == text.count(f"| [{record.name}](#{record.name}) |") == 1
        assert "\n" + record.what[:60] in text and f"record={record.name}" in text


def test_a_goal_is_open_until_a_record_of_its_class_reaches_it(shipped):
    import records_table

    (known,) = [record for record in shipped if record.name == "multi30k_35"]

    def row(*records):
        goal = "| one GPU | Multi30k, English to German: 41 BLEU | "
        (line,) = [line for line in records_table.goals(records) if line.startswith(goal)]
        return line.removeprefix(goal).split(" | ")

    assert row(known) == ["nobody yet", "", " |"]  # another class
    near = dataclasses.replace(known, machine="one GPU", value=40.9, seeds={1: 40.9}, path="near.yaml")
    assert row(near, known) == ["nobody yet", "", "[near](#near), 40.90 |"]
    slow = dataclasses.replace(near, value=42.0, seeds={1: 42.0}, path="slow.yaml")
    fast = dataclasses.replace(near, value=41.0, seeds={1: 41.0}, path="fast.yaml", seconds=90.0)
    assert row(near, slow) == ["[slow](#slow), 42.00", "8.1", " |"]
    assert row(near, slow, fast) == ["[fast](#fast), 41.00", "1.5", " |"]  # the faster one, not the better one
    helped = dataclasses.replace(fast, command=[*fast.command, "init_from=hf:ORG/NAME"])
    assert row(helped) == ["nobody yet", "", " |"]  # not from scratch


def test_less_is_better_for_a_loss_and_shares_are_in_percent(shipped):
    import records_table

    by_name = {record.name: record for record in shipped}
    goals = "\n".join(records_table.goals(shipped))
    assert "1.47 nats | [shakespeare_char_lstm](#shakespeare_char_lstm), 1.462 ± 0.001 | 6.8 |" in goals
    without = "\n".join(records_table.goals([each for each in shipped if not each.plugin]))
    assert "1.47 nats | nobody yet |  | [shakespeare_char_15min](#shakespeare_char_15min), 1.484 |" in without
    better = dataclasses.replace(by_name["shakespeare_char_3min"], value=1.49, seeds={1: 1.49})
    assert "1.50 nats | [shakespeare_char_3min](#shakespeare_char_3min), 1.490 | 3.1 |" in "\n".join(
        records_table.goals([better])
    )
    assert records_table.score(by_name["classification_trec"]) == "89.60 ± 1.25"
    assert records_table.score(by_name["characters_500_steps"]) == "1.816 ± 0.002"
