"""A study that is killed goes on where it stopped, and ends as if it had not been."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from bathyscope.commands.study import study
from bathyscope.config import Config
from bathyscope.runs.run import Run
from support import changed

NAME = "dictionary_scaling"


def test_a_killed_study_goes_on(tiny_study: Callable[..., Config]) -> None:
    few = {"family__models": ["llama-0.013M-*", "llama-0.021M-*"], "study__random_models": False}
    config = tiny_study(NAME, **few)
    results = Path(config.url) / "studies" / NAME / "results"
    process = multiprocessing.get_context("spawn").Process(target=study, args=(config, print))
    process.start()
    assert process.pid is not None
    deadline = time.monotonic() + 120
    # Dead after the first of four results, while the second is measured.
    while not (results.is_dir() and any(results.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in results.iterdir()}
    assert 1 <= len(kept) < 4
    lines: list[str] = []
    assert study(config, lines.append)
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
    assert "1 done in" in "\n".join(lines)
    again = Run(config.url).study_table(NAME).to_pylist()

    whole = changed(config, url=f"{config.url}-whole")
    assert study(whole, lambda line: None)
    assert Run(whole.url).study_table(NAME).to_pylist() == again
