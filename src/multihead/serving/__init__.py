"""Runs behind HTTP: requests are gathered into batches, and a page shows what a model does."""
