"""Workers with other versions are refused before they do anything."""

from __future__ import annotations

import platform

import pytest
import torch

import bathyscope
from bathyscope.errors import JobError
from bathyscope.jobs.versions import check_versions, versions


def test_versions_are_those_that_are_installed() -> None:
    found = versions()

    assert found["python"] == platform.python_version()
    assert found["torch"] == torch.__version__
    assert found["bathyscope"] == bathyscope.__version__


def test_the_same_versions_pass() -> None:
    check_versions(versions(), versions(), "here")


def test_every_difference_is_named() -> None:
    mine = {**versions(), "torch": "1.0", "triton": "absent"}
    wanted = {**versions(), "triton": "9.9", "numpy": "0.1"}

    with pytest.raises(JobError) as caught:
        check_versions(wanted, mine, "node-7")

    text = str(caught.value)
    assert text.startswith("The worker on node-7 has ")
    assert f"torch 1.0 (driver: {torch.__version__})" in text
    assert "triton absent (driver: 9.9)" in text
    assert "(driver: 0.1)" in text
    assert "python" not in text
