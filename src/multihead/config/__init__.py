"""The configuration as typed dataclasses, torch-free: a default and its documentation stand here and nowhere else."""
