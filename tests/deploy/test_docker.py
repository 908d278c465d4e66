"""The Dockerfile beyond what a linter knows. No image is built: there is no docker here."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from deploy_files import DEPLOY, ROOT, WHOLE, checked

DOCKER = DEPLOY / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text(encoding="utf-8")
INSTRUCTIONS = re.findall(
    r"^([A-Z]+) (.*)$", re.sub(r"\\\n\s*", "", DOCKERFILE), flags=re.MULTILINE
)


def context_patterns() -> list[str]:
    """What the context holds."""
    text = (DOCKER / "Dockerfile.dockerignore").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    return [line[1:] for line in lines if line.startswith("!")]


def copied() -> list[str]:
    """Sources of COPY from the context."""
    found: list[str] = []
    for name, rest in INSTRUCTIONS:
        if name == "COPY" and "--from=" not in rest:
            words = [word for word in rest.split() if not word.startswith("--")]
            found += words[:-1]
    return found


def test_base_images_are_pinned_by_digest() -> None:
    images = re.findall(r"^ARG \w+_IMAGE=(.*)$", DOCKERFILE, flags=re.MULTILINE)
    assert len(images) == 2
    for image in images:
        assert re.fullmatch(r"[\w./-]+:v?[\d.]+[\w.-]*@sha256:[0-9a-f]{64}", image)
    for name, rest in INSTRUCTIONS:
        if name == "FROM":
            assert rest.split()[0] in ("${CUDA_IMAGE}", "${KUBECTL_IMAGE}", "base")


def test_torch_is_the_one_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    pinned = re.search(r'"torch==([\d.]+)"', makefile)
    assert pinned is not None
    assert f"ARG TORCH={pinned[1]}\n" in DOCKERFILE


def test_the_image_runs_as_the_user_that_manifests_name() -> None:
    users = [rest for name, rest in INSTRUCTIONS if name == "USER"]
    assert users == ["1000:1000"]
    last = DOCKERFILE.rindex("\nFROM ")
    assert DOCKERFILE.index("USER 1000:1000") > last
    assert not re.search(r"^(COPY|RUN|ADD)", DOCKERFILE[DOCKERFILE.index("USER 1000") :], re.M)


def test_what_is_copied_is_in_the_context_and_the_context_is_copied() -> None:
    patterns = context_patterns()
    for source in copied():
        assert (ROOT / source).exists(), source
        assert any(p == source or p.startswith(f"{source}/") for p in patterns), source
    for pattern in patterns:
        assert any(s == pattern or pattern.startswith(f"{s}/") for s in copied()), pattern


def test_the_context_is_small() -> None:
    files = [f for p in context_patterns() for f in [ROOT / p, *(ROOT / p).rglob("*")]]
    size = sum(f.stat().st_size for f in files if f.is_file() and "__pycache__" not in f.parts)
    assert 500_000 < size < 10_000_000


def test_dependencies_are_installed_before_the_code_is_copied() -> None:
    assert DOCKERFILE.index("--requirement requirements.txt") < DOCKERFILE.index("COPY pipeline")
    assert "pip install --no-deps ." in DOCKERFILE


def test_requirements_are_those_of_the_project_and_its_extras() -> None:
    match = re.search(r"requirements\.py pyproject\.toml ([\w ]+) >", DOCKERFILE)
    assert match is not None
    extras = match[1].split()
    argv = [sys.executable, str(DOCKER / "requirements.py"), str(ROOT / "pyproject.toml"), *extras]
    printed = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(project["dependencies"]) < set(printed)
    # Without the agent of ray[default] there are neither metrics nor submitted jobs.
    assert any(line.startswith("ray[default]") for line in printed)
    assert not any(line.startswith("pytest") for line in printed)


@pytest.mark.skipif(not WHOLE, reason="builds a wheel: `make deploy-check`")
def test_the_context_is_enough_to_build_the_package(tmp_path: Path) -> None:
    context = tmp_path / "context"
    for name in context_patterns():
        if (ROOT / name).is_dir():
            hidden = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, context / name, ignore=hidden)
        else:
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, context / name)
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps")
    checked(*pip, "--wheel-dir", str(tmp_path), ".", cwd=context)
    (wheel,) = tmp_path.glob("bathyscope-*.whl")
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
    for name in ("bathyscope/conf/experiment/demo.yaml", "bathyscope/cli.py", "bathyscope/py.typed",
                 "bathyscope_kernels/encode.py"):  # fmt: skip
        assert name in names
    sources = {str(p.relative_to(ROOT / "pipeline")) for p in (ROOT / "pipeline").rglob("*.py")}
    assert sources <= names


def test_an_extra_that_is_not_there_is_an_error() -> None:
    argv = [sys.executable, str(DOCKER / "requirements.py"), str(ROOT / "pyproject.toml"), "nope"]
    with pytest.raises(subprocess.CalledProcessError):
        subprocess.run(argv, capture_output=True, check=True)
