"""The files of a benchmark: a line of JSON per row as it is measured, then JSON and Markdown."""

import json
from pathlib import Path
from typing import Any

from bathyscope_kernels.bench import tables
from bathyscope_kernels.bench.rows import Row

_LINES = "rows.jsonl"
RESULTS = "results.json"
TABLE = "table.md"


class Records:
    """Rows in a folder. Those of another identity (machine, versions, source) stay there unread."""

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder, self.identity = folder, identity
        self.rows: list[Row] = []
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / _LINES
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                found = json.loads(line)
            except ValueError:
                continue  # the last line of a run that was killed while it wrote
            if found["identity"] == identity:
                self._put(found["row"])

    def has(self, operation: str, shape: str, quick: bool) -> bool:
        """Return whether a row is there. A quick one does not stand for a full one."""
        return any(_key(row) == (operation, shape, quick) for row in self.rows)

    def add(self, row: Row) -> None:
        """Append a row to the file at once, in place of an older one of its kind.

        One that failed stands in the results of this run only, so that the next one tries again.
        """
        if not row["failed"]:
            with (self.folder / _LINES).open("a") as file:
                file.write(json.dumps({"identity": self.identity, "row": row}) + "\n")
        self._put(row)

    def write(self, header: dict[str, Any], left_out: list[str], *, quick: bool) -> Path:
        """Write JSON and Markdown of the quick or the full rows; return the path of the JSON."""
        rows = [row for row in self.rows if row["quick"] == quick]
        results = {"header": header, "rows": rows, "left_out": left_out}
        path = self.folder / RESULTS
        path.write_text(json.dumps(results, indent=1) + "\n")
        (self.folder / TABLE).write_text(tables.markdown(header, rows, left_out))
        return path

    def _put(self, row: Row) -> None:
        self.rows = [old for old in self.rows if _key(old) != _key(row)] + [row]


def _key(row: Row) -> tuple[str, str, bool]:
    return row["operation"], row["shape"], row["quick"]


def headline(rows: list[Row]) -> dict[str, dict[str, float]]:
    """The worst ratios of each operation: ours over its matmul, its quickest peer over ours."""
    over_matmul: dict[str, float] = {}
    peer: dict[str, float] = {}
    for row in rows:
        name = row["operation"]
        if row.get("ours_over_matmul"):
            over_matmul[name] = max(over_matmul.get(name, 0.0), round(row["ours_over_matmul"], 3))
        if row.get("peers_over_ours"):
            quickest = round(min(row["peers_over_ours"].values()), 3)
            peer[name] = min(peer.get(name, quickest), quickest)
    return {"ours_over_matmul": over_matmul, "quickest_peer_over_ours": peer}
