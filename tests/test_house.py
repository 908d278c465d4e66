"""The house stands: imports run down the floors, heavy libraries stay in their rooms.

The floors are those of the architecture page. A file is read, not imported, so an import inside
a function or under TYPE_CHECKING counts like any other.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import bathyscope

ROOT = Path(__file__).resolve().parent.parent
SOURCE_ROOTS = (ROOT / "kernels", ROOT / "pipeline")
KERNELS, PIPELINE = "bathyscope_kernels", "bathyscope"

FLOORS: tuple[frozenset[str], ...] = (
    frozenset({KERNELS}),
    frozenset({"errors", "values", "secrets", "config", "sweep_points"}),
    frozenset({"dictionaries", "models", "stores", "corpora", "metrics"}),
    frozenset({"runs"}),
    frozenset({"attribution", "evaluation", "features", "studies", "training", "pages"}),
    frozenset({"stages"}),
    frozenset({"jobs"}),
    frozenset({"commands"}),
    frozenset({"cli", "command_help", "composition", "config_rules"}),
)
"""From the ground up. Rooms of one floor never import each other."""
ON_ONE_FLOOR = {
    ("values", "errors"),
    ("config", "errors"),
    ("cli", "command_help"),
    ("cli", "composition"),
    ("composition", "config_rules"),
    ("sweep_points", "config"),
    ("sweep_points", "errors"),
}
"""The pairs of small files that may, importer first."""
CALL_KERNELS = {"dictionaries", "training", "attribution", "features"}
SEE_CONFIG = {
    "config", "stages", "jobs", "commands", "cli", "command_help", "composition", "config_rules",
    "sweep_points",
}  # fmt: skip
"""Lower floors take plain arguments, never a config object."""
BARE_ROOMS = (
    "kernels", "models", "dictionaries", "training", "metrics", "attribution", "evaluation",
    "features", "studies",
)  # fmt: skip
"""What must run on a GPU machine that has torch and little else."""
NOT_ON_BARE_MACHINES = (
    "ray", "zarr", "hydra", "omegaconf", "xxhash", "pyarrow", "obstore", "rich", "psutil",
)  # fmt: skip


class Import(NamedTuple):
    """One import statement, for instance `from bathyscope.stores.rows import read`."""

    file: str
    line: int
    room: str
    """Room of the importing file; "" for `bathyscope/__init__.py`."""
    module: str

    @property
    def library(self) -> str:
        """The top-level package that is imported."""
        return self.module.partition(".")[0]

    @property
    def target(self) -> str:
        """The room that is imported; "" for `bathyscope` itself and for foreign libraries."""
        if self.library == KERNELS:
            return KERNELS
        return self.module.split(".")[1] if self.module.startswith(f"{PIPELINE}.") else ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


@cache
def source_files() -> tuple[Path, ...]:
    """Every Python file of both source roots."""
    return tuple(sorted(path for root in SOURCE_ROOTS for path in root.rglob("*.py")))


@cache
def all_imports() -> tuple[Import, ...]:
    """Every import statement of both source roots."""
    return tuple(found for path in source_files() for found in imports_of(path))


def imports_of(path: Path) -> Iterator[Import]:
    name = str(path.relative_to(ROOT))
    room = room_of(path)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name, node.lineno, room, alias.name)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno} has a relative import: floors need names"
            assert node.module is not None
            # `from bathyscope import errors` names a room as `import bathyscope.errors` does.
            inner = (
                [f"{node.module}.{a.name}" for a in node.names] if node.module == PIPELINE else []
            )
            for module in inner or [node.module]:
                yield Import(name, node.lineno, room, module.removesuffix(".__version__"))


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts[1:]
    if parts[0] == KERNELS:
        return KERNELS
    room = parts[1] if len(parts) > 2 else path.stem
    return "" if room == "__init__" else room


def floor_of(room: str) -> int:
    found = [number for number, rooms in enumerate(FLOORS) if room in rooms]
    assert found, f"{room!r} has no floor: add it to FLOORS, as the architecture page has it"
    return found[0]


def listed(imports: Iterator[Import]) -> list[str]:
    return [str(found) for found in imports]


def test_every_room_has_one_floor() -> None:
    for room in {room_of(path) for path in source_files()} - {""}:
        assert sum(room in rooms for rooms in FLOORS) == 1, room


def test_imports_run_down_only() -> None:
    wrong = (
        i
        for i in all_imports()
        if i.room and i.target and i.room != i.target
        if floor_of(i.target) >= floor_of(i.room) and (i.room, i.target) not in ON_ONE_FLOOR
    )
    assert listed(wrong) == []


def test_the_check_would_see_a_wrong_import() -> None:
    """Guards the reading of files: known right imports are found with their floors."""
    pairs = {(i.room, i.target) for i in all_imports()}
    assert {("dictionaries", KERNELS), ("stages", "runs"), ("cli", "commands")} <= pairs
    assert {("runs", "stores"), ("commands", "jobs"), ("", "runs")} <= pairs
    assert floor_of("dictionaries") == floor_of("models") < floor_of("runs") < floor_of("pages")


def test_the_package_itself_imports_a_room_only_inside_a_function() -> None:
    tree = ast.parse((ROOT / "pipeline/bathyscope/__init__.py").read_text(encoding="utf-8"))
    top = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    assert {getattr(node, "module", None) for node in top} <= {"__future__", "typing"}


def test_kernels_know_torch_and_triton_only() -> None:
    allowed = {"torch", "triton", KERNELS} | set(sys.stdlib_module_names)
    assert listed(i for i in all_imports() if i.room == KERNELS and i.library not in allowed) == []


def test_who_calls_kernels() -> None:
    wrong = (
        i for i in all_imports() if i.library == KERNELS and i.room not in CALL_KERNELS | {KERNELS}
    )
    assert listed(wrong) == []


def test_configs_stay_on_the_upper_floors() -> None:
    wrong = (i for i in all_imports() if i.target == "config" and i.room not in SEE_CONFIG)
    assert listed(wrong) == []


@pytest.mark.parametrize(
    ("libraries", "files"),
    [
        (("hydra", "omegaconf"), r"pipeline/bathyscope/composition\.py"),
        (("yaml",), r"pipeline/bathyscope/(composition|dictionaries/circuit_tracer_files)\.py"),
        (("ray",), r"pipeline/bathyscope/jobs/cluster\w*\.py"),
        (("zarr", "obstore"), r"pipeline/bathyscope/stores/\w+\.py"),
        (("rich",), r"pipeline/bathyscope/commands/\w+\.py"),
        (("transformers", "accelerate", "tokenizers"), r"pipeline/bathyscope/models/\w+\.py"),
        (("datasets",), r"pipeline/bathyscope/corpora/\w+\.py"),
        (("igraph",), r"pipeline/bathyscope/studies/communities\.py"),
        (("pickle", "dill", "cloudpickle", "joblib"), r"(?!)"),
    ],
)
def test_libraries_stay_in_their_files(libraries: tuple[str, ...], files: str) -> None:
    wrong = (i for i in all_imports() if i.library in libraries and not re.fullmatch(files, i.file))
    assert listed(wrong) == []


def bare_modules() -> list[str]:
    """Every module of the rooms that run on bare machines."""
    found = []
    for path in source_files():
        room = room_of(path)
        if room == KERNELS or room in BARE_ROOMS:
            parts = path.relative_to(ROOT).with_suffix("").parts[1:]
            found.append(".".join(parts).removesuffix(".__init__"))
    return found


HIDING = """
import importlib, sys
from importlib.machinery import PathFinder

class Hiding(PathFinder):
    # None, and no error: libraries ask find_spec whether another one is installed.
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.partition(".")[0] in {names}
        return None if hidden else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Hiding
for name in {names}:
    assert importlib.util.find_spec(name) is None, name
for module in {modules}:
    importlib.import_module(module)
"""


def test_bare_rooms_import_without_cluster_store_and_command_line_libraries() -> None:
    modules = bare_modules()
    of_pipeline = [m for m in modules if m.startswith(f"{PIPELINE}.") and m.count(".") == 2]
    rooms = {module.split(".")[-2] for module in of_pipeline}
    assert rooms == set(BARE_ROOMS) - {"kernels"}
    assert f"{KERNELS}.encode" in modules
    run_python(HIDING.format(names=set(NOT_ON_BARE_MACHINES), modules=modules))


def test_importing_bathyscope_imports_nothing_heavy() -> None:
    run_python(
        "import sys, bathyscope\n"
        "heavy = {'torch', 'numpy', 'zarr', 'ray', 'hydra', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )


def run_python(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "path",
    ["kernels/__init__.py", "pipeline/__init__.py", "conftest.py", "tests/__init__.py"],
)
def test_files_that_must_not_be_there(path: str) -> None:
    # A package called `kernels` would hide the one that transformers imports by that name.
    assert not (ROOT / path).exists()


def test_no_test_folder_is_a_package() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


@pytest.mark.parametrize("package", [KERNELS, PIPELINE])
def test_both_packages_are_typed(package: str) -> None:
    assert any((root / package / "py.typed").is_file() for root in SOURCE_ROOTS)


@cache
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_package_folder_is_listed() -> None:
    tools = pyproject()["tool"]["setuptools"]
    folders = {path.parent for root in SOURCE_ROOTS for path in root.rglob("__init__.py")}
    names = {".".join(folder.relative_to(ROOT).parts[1:]) for folder in folders}
    conf = {path.parent for path in (ROOT / "conf").rglob("*.yaml")}
    names |= {".".join((PIPELINE, *folder.relative_to(ROOT).parts)) for folder in conf}
    assert sorted(tools["packages"]) == sorted(names)
    assert all((folder / "__init__.py").is_file() for folder in conf)


def test_every_folder_with_source_is_a_package() -> None:
    for path in source_files():
        assert (path.parent / "__init__.py").is_file(), path


def test_every_dependency_has_a_reason_beside_it() -> None:
    project = pyproject()["project"]
    wanted = list(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        wanted += extra
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    for dependency in wanted:
        line = next(line for line in lines if f'"{dependency}"' in line and "#" in line)
        assert len(line.rpartition("#")[2].strip()) >= 5, line


def test_what_is_imported_is_a_dependency() -> None:
    """A library that only comes along with another one may go with its next version."""
    project = pyproject()["project"]
    given = [*project["dependencies"], *project["optional-dependencies"]["gguf"]]
    for extra in ("communities", "hf", "images", "wandb"):
        given += project["optional-dependencies"][extra]
    names = {re.split(r"[^\w.-]", line)[0].lower().replace("-", "_") for line in given}
    names = {{"hydra_core": "hydra", "pillow": "PIL"}.get(name, name) for name in names}
    # These stay: omegaconf reads YAML with the one, transformers fetches models with the other.
    along = {"yaml", "huggingface_hub"}
    own = {PIPELINE, KERNELS} | set(sys.stdlib_module_names)
    wrong = (i for i in all_imports() if i.library not in names | along | own)
    assert listed(wrong) == []


def test_one_version() -> None:
    assert pyproject()["project"]["version"] == bathyscope.__version__
