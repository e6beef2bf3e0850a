"""Real faults, one row each: see `harness`."""
