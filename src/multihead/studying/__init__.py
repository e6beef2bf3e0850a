"""Studies: is a variant better than the baseline, on which tasks, by how much, and could the budget have shown it?

`sequential` is the test that looks after each seed, and `schedule` says which runs come next. `launch` sizes and tunes
the variants, `ledger` records the runs, and `runner` starts the workers. `verdicts` judges, and `report` writes the
answer. `multihead.config.study` reads the file.
"""
