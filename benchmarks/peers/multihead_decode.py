"""Multihead's own decoding, from a run directory."""

import torch
from decoding import TestSet
from pace import Pace, settings


def main() -> None:
    """Decodes for as long as the benchmark asks for it."""
    s, folder = settings()
    pace = Pace(version="this checkout", search="batches by tokens, side by side, finished sentences leave")
    import multihead

    task = multihead.load(s["run"], *s["words"]).task.to(s["device"])
    decoding = task.config.decoding
    pace.say(parameters=sum(p.numel() for p in task.model.parameters()), threads=torch.get_num_threads())
    sources = TestSet(folder, s["name"])

    @torch.inference_mode()
    def search(rows: list[list[int]]) -> list[list[int]]:
        return [hypotheses[0].ids for hypotheses in task.search(rows, decoding)]

    sources.serve(pace, len(sources.sources), search)


if __name__ == "__main__":
    main()
