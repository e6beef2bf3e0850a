"""Runs all chapters of the guide: ``python docs/learn``. With ``MULTIHEAD_GUIDE=full`` before it, in full size."""

import runpy
import time
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt

matplotlib.use("Agg")  # opens no windows
chapters = sorted(Path(__file__).parent.glob("[0-9]*.py"))
lines = []
for chapter in chapters:
    print(f"\n{'=' * 20} {chapter.name}")
    began, blocks = time.perf_counter(), f"\n{chapter.read_text(encoding='utf-8')}".count("\n# %%")
    runpy.run_path(str(chapter))
    figures = len(plt.get_fignums())
    plt.close("all")
    lines.append(f"{chapter.name:40} {blocks:4} cells {figures:3} figures {time.perf_counter() - began:7.1f} s")
print(f"\n{'=' * 20} all {len(chapters)} chapters ran\n" + "\n".join(lines))
