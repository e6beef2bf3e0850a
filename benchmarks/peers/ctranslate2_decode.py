"""CTranslate2 with the model that ``multihead export to=ctranslate2`` wrote."""

import json
from collections.abc import Iterator
from pathlib import Path

import ctranslate2
from decoding import TestSet
from pace import Pace, settings


def main() -> None:
    """Decodes for as long as the benchmark asks for it."""
    s, folder = settings()
    model = ctranslate2.Translator(s["model"], device="cpu", inter_threads=s["threads"], intra_threads=1)
    tokens = json.loads((folder / "tokens.json").read_text())
    ids = {token: number for number, token in enumerate(tokens)}
    pace = Pace(version=f"ctranslate2 {ctranslate2.__version__}, {model.compute_type}", threads=s["threads"])
    pace.say(
        search=f"sorted by length, batches of {s['batch']}, one on each thread",
        size=(Path(s["model"]) / "model.bin").stat().st_size,
    )

    def search(rows: list[list[int]]) -> Iterator[list[int]]:
        results = model.translate_batch(
            [[tokens[i] for i in row] for row in rows],  # the model adds the end mark
            beam_size=s["num_beams"],
            length_penalty=s["length_penalty"],
            max_batch_size=s["batch"],
            max_decoding_length=2 * max(map(len, rows)) + 10,
            suppress_sequences=[[tokens[i]] for i in s["forbidden"]],
            asynchronous=True,  # waited for as outputs are read, so that each thread has a batch
        )
        return ([ids[token] for token in one.result().hypotheses[0]] for one in results)

    TestSet(folder, s["name"]).serve(pace, s["batch"], search)


if __name__ == "__main__":
    main()
