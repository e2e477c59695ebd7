"""All written ways to install bring torch's build for CPUs: PyPI's for Linux comes with gigabytes of CUDA."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CPU_BUILDS = ("--index-url https://download.pytorch.org/whl/cpu", "--torch-backend cpu")
PLACES = ("*.md", "docs/*.md", "Makefile", "*.txt", ".ci/*", "src/**/*.py", "examples/demo/*.py", "benchmarks/*.py")


def commands(path):
    """What stands behind each `pip install` of a file, or behind Makefile's $(PIP)."""
    text = path.read_text()
    if path.suffix == ".py":
        text = re.sub(r'"\s*\n\s*f?"', "", text)  # one string, broken into lines
    return [found.strip() for found in re.findall(r"(?:pip install|\$\(PIP\))(.*?)(?=`|\n|&&)", text)]


def brings_cpu_build(command):
    return any(words in command for words in CPU_BUILDS)


def test_what_installs_torch_names_the_index_of_cpu_builds():
    found = [(path.name, one) for place in PLACES for path in ROOT.glob(place) for one in commands(path)]
    of_torch = [(name, one) for name, one in found if re.search(r"(^|\s)torch\b", one)]
    assert {"README.md", "Makefile", "doctor.py"} <= {name for name, _ in of_torch}
    assert [one for one in of_torch if not brings_cpu_build(one[1])] == []


@pytest.mark.parametrize("name", ["README.md", "Makefile"])
def test_the_cpu_build_is_there_before_the_package_that_would_bring_another(name):
    has_torch, packages = False, 0
    for command in commands(ROOT / name):
        has_torch = has_torch or brings_cpu_build(command)
        packages += ".[" in command
        assert has_torch or ".[" not in command, command
    assert packages


def test_pip_waits_seconds_for_an_index_that_does_not_answer():
    (torch,) = (one for one in commands(ROOT / "Makefile") if brings_cpu_build(one))
    assert "--no-deps" in torch  # so that nothing else is looked for there
    assert "--retries 1 --timeout 10" in torch


def test_the_pinned_torch_is_one_that_both_builds_satisfy():
    (pin,) = re.findall(r"^torch(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert re.fullmatch(r"==\d+\.\d+\.\d+", pin)  # 2.13.0+cpu is 2.13.0 too
