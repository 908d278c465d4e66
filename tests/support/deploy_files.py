"""The files of `deploy/`, the commands in them, and the tools that check them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
KUBERAY = DEPLOY / "kuberay"
WHOLE = bool(os.environ.get("BATHYSCOPE_DEPLOY_CHECK"))
"""Set by `make deploy-check`: nothing is skipped because a tool is not installed."""
NOT_YET: set[str] = set()
"""Commands that manifests call and that `bathyscope` does not have yet."""
CONFIG_DIRS = {"/etc/bathyscope": DEPLOY / "conf", "deploy/conf": DEPLOY / "conf"}
"""Where manifests find experiments -> where the checkout has them."""


class Command(NamedTuple):
    """A command of a file, as words."""

    file: str
    words: tuple[str, ...]
    """Without `bathyscope`; the first one is the command."""

    def __str__(self) -> str:
        return f"{self.file}: {' '.join(self.words)}"

    @property
    def here(self) -> list[str]:
        """The words with the experiments of this checkout."""
        return [_here(word) for word in self.words]


def documents(path: Path) -> list[dict[str, Any]]:
    """All YAML documents of a file."""
    return [d for d in yaml.safe_load_all(path.read_text(encoding="utf-8")) if d is not None]


def kubernetes_files() -> list[Path]:
    """Every manifest for Kubernetes."""
    return sorted(KUBERAY.glob("*.yaml"))


def manifests(kind: str) -> list[tuple[str, dict[str, Any]]]:
    """The manifests of a kind, each with the name of its file."""
    return [
        (path.name, found)
        for path in kubernetes_files()
        for found in documents(path)
        if found["kind"] == kind
    ]


def job_specs() -> list[tuple[str, dict[str, Any]]]:
    """The spec of every RayJob, also of that in a RayCronJob."""
    jobs = [(name, found["spec"]) for name, found in manifests("RayJob")]
    nights = [(name, found["spec"]["jobTemplate"]) for name, found in manifests("RayCronJob")]
    return [*jobs, *nights]


def commands() -> list[Command]:
    """Every `bathyscope` command in entry points, comments, schedules and code blocks."""
    found = [Command(name, _words(spec["entrypoint"])) for name, spec in job_specs()]
    for path in sorted(p for p in DEPLOY.rglob("*") if p.is_file() and p.suffix != ".json"):
        name = str(path.relative_to(DEPLOY))
        found += [Command(name, words) for words in _in_text(path)]
    return list(dict.fromkeys(found))


def tool(name: str) -> str:
    """The path of a program, of this environment or of the machine; skips visibly without it."""
    environment = Path(sys.executable).parent
    unpacked = environment.parent / "deploy-tools" / "usr"
    places = [str(environment), os.environ["PATH"], *(str(unpacked / p) for p in ("bin", "sbin"))]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        missing(f"{name} is not installed; `make deploy-check` installs it")
    return str(found)


def missing(why: str) -> None:
    """Skip the test, or fail it in `make deploy-check`."""
    if WHOLE:
        pytest.fail(why)
    pytest.skip(why)


def checked(*argv: str, **options: Any) -> str:
    """What a program prints; fails the test with all of its output where it ends with an error."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{shlex.join(argv)}\n{done.stdout}{done.stderr}"
    return done.stdout


def _in_text(path: Path) -> Iterator[tuple[str, ...]]:
    """Commands in the comments and schedules of a file, or in the code blocks of a page."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        text = "\n".join(re.findall(r"^```\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL))
        lines = re.sub(r"\\\n\s*", "", text).splitlines()
    else:
        joined = re.sub(r"\\\n#?\s*", "", text)
        pattern = r"\s*#|\s*[\d*]\S* \S+ \S+ \S+ \S+ "
        lines = [line for line in joined.splitlines() if re.match(pattern, line)]
    for line in lines:
        match = re.match(r"(?:.*[\s/])?bathyscope(?:\.sbatch)? ([a-z][a-z-]*(?: .*)?)$", line)
        if match and "=" in match[1] and "`" not in match[1]:
            yield _words(match[1])


def _words(text: str) -> tuple[str, ...]:
    words = shlex.split(text)
    return tuple(words[1:] if words[0] == "bathyscope" else words)


def _here(word: str) -> str:
    option, equals, folder = word.partition("=")
    if option != "--config-dir":
        return word
    return f"{option}{equals}{CONFIG_DIRS[folder]}"
