import json
import platform
from pathlib import Path

import pytest

from bathyscope.corpora.installed import source_files, version_of
from bathyscope.errors import ConfigError, CorpusError


def make_package(folder: Path, name: str, files: dict[str, str]) -> None:
    for file, text in {"__init__.py": "", **files}.items():
        path = folder / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def make_metadata(folder: Path, distribution: str, version: str, files: dict[str, str]) -> None:
    info = folder / f"{distribution}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {distribution}\nVersion: {version}\n")
    for file, text in files.items():
        (info / file).write_text(text)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_files_are_sorted_and_test_suites_left_out(site: Path) -> None:
    files = {"z.py": "", "sub/a.py": "", "tests/test_z.py": "", "sub/test/b.py": "", "data.txt": ""}
    make_package(site, "shellfish", files)
    (site / "shellfish" / ".#z.py").symlink_to("nowhere")
    names = [file.name for file in source_files("shellfish")]
    assert names == ["shellfish/__init__.py", "shellfish/sub/a.py", "shellfish/z.py"]


def test_a_package_is_located_without_running_it(site: Path) -> None:
    make_package(site, "explosive", {"__init__.py": "raise RuntimeError('was imported')"})
    assert [file.name for file in source_files("explosive")] == ["explosive/__init__.py"]
    assert version_of("explosive").startswith("unversioned+")


def test_a_module_of_one_file_and_a_namespace_package(site: Path) -> None:
    (site / "lonely.py").write_text("")
    (site / "wide").mkdir()
    (site / "wide" / "part.py").write_text("")
    assert [file.name for file in source_files("lonely")] == ["lonely.py"]
    assert [file.name for file in source_files("wide")] == ["wide/part.py"]


def test_the_standard_library_has_no_installed_packages_and_no_tests() -> None:
    names = {file.name for file in source_files("stdlib")}
    assert {"json/decoder.py", "heapq.py", "unittest/case.py"} <= names
    folders = {part for name in names for part in name.split("/")[:-1]}
    assert not folders & {"site-packages", "test", "tests", "idlelib", "lib2to3", "turtledemo"}


def test_versions_come_from_python_from_metadata_or_from_the_files(site: Path) -> None:
    assert version_of("stdlib") == version_of("topics") == version_of("json")
    assert version_of("json") == platform.python_version()

    make_package(site, "snail", {})
    make_metadata(site, "snail-tools", "2.5", {"top_level.txt": "snail\n"})
    assert version_of("snail") == "2.5"

    make_package(site, "slug", {"a.py": "1"})
    before = version_of("slug")
    assert version_of("slug") == before
    (site / "slug" / "a.py").write_text("2")
    assert version_of("slug") != before


def test_an_editable_install_has_its_files_in_the_version(site: Path) -> None:
    make_package(site, "clay", {"a.py": "1"})
    origin = json.dumps({"url": "file:///clay", "dir_info": {"editable": True}})
    make_metadata(site, "clay", "0.1", {"direct_url.json": origin})
    before = version_of("clay")
    assert before.startswith("0.1+")
    (site / "clay" / "a.py").write_text("2")
    assert version_of("clay") != before


def test_a_missing_package_is_named_with_those_that_are_installed() -> None:
    with pytest.raises(CorpusError, match="'not_a_package' is not installed") as raised:
        source_files("not_a_package")
    assert "stdlib, topics, numpy, " in str(raised.value).replace("sympy, ", "")
    with pytest.raises(CorpusError, match="not installed"):
        version_of("not_a_package")


@pytest.mark.parametrize("name", ["torch.nn", "", "../torch", ".torch"])
def test_a_name_that_would_import_or_is_none_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="no top-level package name"):
        source_files(name)


def test_a_module_without_python_source_is_refused() -> None:
    with pytest.raises(CorpusError, match="no Python source"):
        source_files("sys")
