"""The benchmark: floors by hand, errors that notice a wrong selection, a run that resumes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import bathyscope_kernels
from bathyscope_kernels.bench import cases, exact, floors, measure, rows, shapes, tables

CPU = torch.device("cpu")
TINY = shapes.Shape(64, 32, 512, 4, torch.float32)
RATES = floors.Rates(flops_per_s=790e12, bytes_per_s=4.3e12)


def test_encode_floor_by_hand() -> None:
    """T 8192, d 4096, F 131072, k 64 in bfloat16 is 2^43 FLOPs and 1.145 GB."""
    work = floors.encode(8192, 4096, 131072, 8192 * 64, itemsize=2)
    assert work.flops == 2**43
    assert work.bytes == (8192 + 131072) * 8192 + 8 * 8192 * 64 == 1_145_044_992
    ms, limit = floors.floor_ms([work], RATES)
    assert limit == "flops"
    assert ms == pytest.approx(11.134, abs=0.001)


def test_sparse_floors_by_hand() -> None:
    """2 rows of 3 numbers, 2 active, 3 latents touched, float32."""
    decode = floors.decode(2, 3, 2, 3, itemsize=4)
    # 4 products of 3; 3 rows of 12 bytes, 4 entries of 8, 2 rows out of 12.
    assert decode == (24, 36 + 32 + 24)
    backward = floors.backward(2, 3, 2, 3, itemsize=4)
    # Three times the products; 2 + 2 rows read, 3 + 3 + 3 rows of weights, 4 entries, 3 biases.
    assert backward == (72, 48 + 108 + 32 + 12)


def test_other_floors_by_hand() -> None:
    assert floors.adam(10, 3, 10).bytes == 28 * 30
    assert floors.adam(10, 3, 2).bytes == 24 * 30 + 4 * 6
    assert floors.edges(2, 5, 3, 1, itemsize=2) == (60, 7 * 6 + 16)
    assert floors.examples(8192, 64).bytes == 12 * 8192 * 64
    assert floors.matmul(2, 5, 3, itemsize=2) == (60, (6 + 15 + 10) * 2)
    # 256 gradients at 512 positions of 2304 numbers, 64 latents each: 0.75 GB beside the lists.
    dots = floors.sampled_dot(256, 512, 32768, 2304, 32768, itemsize=2)
    assert dots.flops == 2 * 256 * 32768 * 2304
    assert dots.bytes - 12 * 32768 - 4 * 256 * 32768 == pytest.approx(0.755e9, rel=1e-3)


def test_phases_follow_each_other() -> None:
    phases = [floors.Work(200, 1), floors.Work(0, 30)]
    ms, limit = floors.floor_ms(phases, floors.Rates(flops_per_s=100, bytes_per_s=10))
    assert ms == 5000
    assert limit == "bytes"


def test_expected_touched() -> None:
    """Of two latents drawn twice 1.5 are drawn at all; most of 131072 by 524288 draws."""
    assert floors.expected_touched(2, 2) == 1.5
    assert floors.expected_touched(131072, 524288) == pytest.approx(131072 * 0.98168, rel=1e-4)


def test_selection_error_sees_each_fault() -> None:
    scores = torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)

    def error(values: list[float], indices: list[int]) -> float:
        return exact.selection(scores, torch.tensor(values), torch.tensor(indices), 3.0)

    assert error([4, 3], [0, 1]) == 0
    assert error([4, 2.5], [0, 1]) == 0.5 / 4  # a wrong value
    assert error([4, 2], [0, 2]) == 1 / 4  # one below the bound
    assert error([3], [1]) == 1 / 4  # one above the bound is missing


def test_turns_time_every_way_on_every_input() -> None:
    seen: list[tuple[str, int]] = []
    ways = {name: measure.Way(lambda value, name=name: seen.append((name, value))) for name in "ab"}
    effort = measure.Effort(seconds=1, least=1, most=4)
    times = measure.take_turns(ways, [(0,), (1,)], CPU, effort, estimate_s=0.01)
    assert times["a"].rounds == 4
    assert times["a"].min_ms <= times["a"].median_ms <= times["a"].max_ms
    assert seen == [
        *(("a", 0), ("b", 0), ("b", 1), ("a", 1)),
        *(("a", 0), ("b", 0), ("b", 1), ("a", 1)),
    ]


@pytest.mark.parametrize("use", [shapes.ZIPF, shapes.HOT])
def test_odd_use_repeats_no_latent_in_a_row(use: str) -> None:
    from bathyscope_kernels.bench import inputs

    values, indices = inputs.active(TINY._replace(use=use), CPU, seed=0)
    assert bool((values > 0).all())
    ascending = indices.sort(dim=1).values
    assert bool((ascending[:, 1:] > ascending[:, :-1]).all())
    # Uniform use gives the most frequent of 512 latents a few of 64 rows.
    assert int(torch.bincount(indices.reshape(-1)).max()) > 24


@pytest.mark.parametrize("operation", cases.DEVICE)
def test_device_rows(operation: str) -> None:
    row = rows.measure_row(operation, TINY, CPU, RATES, measure.QUICK)
    assert not row["failed"]
    assert all(way["rate"] > 0 for way in row["ways"].values())
    assert row["peers_over_ours"] == {}


def test_a_failure_of_ours_is_told_and_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    from bathyscope_kernels.bench import cases_encode

    def broken(*_: Any) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(cases_encode, "topk_encode", broken)
    row = rows.measure_row("topk_encode", TINY, CPU, RATES, measure.QUICK)
    assert row["failed"]
    assert row["skipped"]["ours"] == "RuntimeError: no such kernel"
    assert "mm+topk" in row["ways"]
    assert "left out, ours: RuntimeError: no such kernel" in tables.line(row)


def test_too_little_memory_leaves_the_row_out() -> None:
    huge = shapes.Shape(8192, 8192, 2**30, 32, torch.float32)
    row = rows.measure_row("topk_encode", huge, CPU, RATES, measure.QUICK)
    assert "GB are free" in row["skipped"]["inputs"]
    assert not row["failed"]


def test_numbers_and_sizes() -> None:
    shown = [tables.number(v) for v in (0.0002, 0.0123, 0.123, 1.234, 12.34, 123.4, 1234)]
    assert shown == ["2e-04", "0.012", "0.12", "1.23", "12.3", "123", "1234"]
    assert [tables.size(b) for b in (None, 0, 12_000_000, 3_400_000_000)] == [
        "-", "0 MB", "12 MB", "3.4 GB",
    ]  # fmt: skip


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="wanted tokens,d,latents,k"):
        shapes.parse("1,2,3", CPU)
    with pytest.raises(ValueError, match="k of at most latents"):
        shapes.parse("1,2,3,4", CPU)
    with pytest.raises(ValueError, match="wanted a part of one of: topk_encode"):
        cases.plan([TINY], CPU, "softmax")


def test_plan_of_a_gpu() -> None:
    cuda = torch.device("cuda")
    plan = cases.plan(shapes.for_device(cuda), cuda, None)
    assert len(plan) == len(set(plan))
    assert [name for name, _ in plan[:11]] == list(cases.OPERATIONS)
    assert [shape.name for _, shape in plan[:33:11]] == ["S", "M", "L"]
    assert plan[33][0] == "device matmul"
    only = cases.plan(shapes.for_device(cuda), cuda, "topk_encode")
    assert {name for name, _ in only} == {"topk_encode"}


def _run(folder: Path, *options: str) -> tuple[str, dict[str, Any]]:
    command = [
        sys.executable, "-m", "bathyscope_kernels.bench", "--quick", "--device", "cpu",
        "--shape", "64,32,512,4", "--out", str(folder), *options,
    ]  # fmt: skip
    kernels = str(Path(bathyscope_kernels.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": kernels}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(done.stdout.splitlines()[-1])


def test_run_writes_both_files_and_resumes(tmp_path: Path) -> None:
    printed, result = _run(tmp_path, "--only", "topk_encode")
    assert result["measured"] == 1
    everything, result = _run(tmp_path)
    assert result["rows"] == len(cases.OPERATIONS)
    assert result["measured"] == len(cases.OPERATIONS) - 1
    assert result["failed"] == []
    assert "\ntopk_encode " in printed
    assert "\ntopk_encode " not in everything
    assert set(result["ours_over_matmul"]) >= {"topk_encode", "sparse_decode", "topk_edges"}

    results = json.loads(Path(result["path"]).read_text())
    header = results["header"]
    assert header["versions"]["torch"] == torch.__version__
    assert header["matmul_tflops"] > 0
    assert header["copy_gb_per_s"] > 0
    for row in results["rows"]:
        ours = row["ways"]["ours"]
        assert 0 < ours["min_ms"] <= ours["median_ms"] <= ours["max_ms"]
        assert row["floor_ms"] > 0
        assert row["max_error"] < 1e-5, row["operation"]
        assert len(row["peers_over_ours"]) >= 1, row["operation"]

    page = (tmp_path / "table.md").read_text()
    table = [line for line in page.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(cases.OPERATIONS)
    assert len({line.count("|") for line in table}) == 1
    assert len({len(line) for line in table}) == 1


def test_time_that_is_over_leaves_rows_out(tmp_path: Path) -> None:
    printed, result = _run(tmp_path, "--seconds", "0")
    assert result["rows"] == 0
    assert result["left_out"] == len(cases.OPERATIONS)
    assert "left out, 0 s are over: topk_encode at 64 x 32 x 512, k 4" in printed
    assert "## Not measured" in (tmp_path / "table.md").read_text()
