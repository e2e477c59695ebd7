"""Run the kernels under the address and undefined-behaviour sanitizers: `make sanitize`.

Each level that this CPU has runs the whole kernel test suite and reads thousands of mutated files. Before that, faults
are planted in a copy of the kernels: a run that does not find each of them fails, since it would find no others either.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

from build import HERE, LEVELS, build

from kameleon.ops import native

ROOT = HERE.parent
FOLDER = ROOT / "build" / "sanitize"
# -O1: the optimiser removes some faults before they can be found. Casts of NaN to whole numbers are no part of
# "undefined" in GCC.
FLAGS = ["-O1", "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined,float-cast-overflow"]
FLAGS += ["-fno-sanitize-recover=all"]
SUITE = ["tests/ops", "tests/model", "tests/generation", "tests/adapters/resident", "tests/weights/test_frozen.py"]
SUITE += ["tests/weights/test_nf4_file.py", "tests/training/test_losses.py", "tests/training/test_passes.py"]
SUITE += ["tests/training/test_peft_gradients.py", "tests/torch_modules/test_lora_layers.py"]
MUTATED = ["tests/test_mutated_files.py"]
FILES = 10_000  # over all levels
# Processes that tests start have their usual kernels and memory: the sanitizer's own is beyond the limit of those that
# run chat templates.
RUN = """
import os, sys, pytest
from kameleon.ops import native
del os.environ["LD_PRELOAD"], os.environ["KAMELEON_KERNELS"]
sys.exit(pytest.main(sys.argv[1:]))
"""


class Plant(NamedTuple):
    """A fault in the kernels, the tests that must find it, and the sanitizer's words for it.

    All are in one library, so the tests of one must not meet another.
    """

    file: str
    sound: str
    faulty: str
    tests: list[str]
    words: str


PLANTS = (
    # One number behind rows of odd sizes.
    Plant(
        "rows.cpp",
        "i < size; i++) shift +=",
        "i < size + size % 2; i++) shift +=",
        ["tests/ops/test_against_reference.py", "-k", "rms_norm"],
        "AddressSanitizer: heap-buffer-overflow",
    ),
    # An empty tensor's address.
    Plant(
        "memory.cpp",
        "if (!bytes) return;",
        "",
        ["tests/ops/test_native.py", "-k", "clearing_zeroes"],
        "runtime error: null pointer passed as argument 1",
    ),
    # Infinite scales, which no sound file has.
    Plant(
        "packed.cpp",
        "return widen(fp16{bits});",
        "return widen(fp16{bits}) + 0 * int(widen(fp16{bits}));",
        MUTATED,
        "outside the range of representable values of type 'int'",
    ),
)


def levels() -> list[str]:
    """The levels that this CPU can run."""
    best = native.choice().level
    if best is None:
        sys.exit(f"no kernels run here: {native.choice().reason}")
    family = list(next(levels for levels in LEVELS.values() if best in levels))
    return family[: family.index(best) + 1]


def compiled(target: Path, only: list[str], source: Path = HERE) -> Path:
    """The folder `target` with libraries of those levels that have the sanitizers in them."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    os.environ["CXX"] = "g++"  # another compiler's sanitizers need another library than the one that is preloaded
    if not build(source=source, target=target, only=only, more=FLAGS):
        sys.exit("the kernels cannot be compiled with sanitizers; install g++ with its libasan and libubsan")
    return target


def tested(folder: Path, level: str, tests: list[str], seeds: range) -> tuple[int, str]:
    """The exit status and the output of pytest with the kernels of a folder."""
    # The sanitizer has to be there before all else, and finds the C++ exceptions of torch only beside libstdc++.
    preload = " ".join(
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libstdc++.so.6")
    )
    environment = {
        **os.environ,
        "KAMELEON_KERNELS": str(folder),
        "KAMELEON_NATIVE": level,
        "KAMELEON_MUTATED_FILES": f"{seeds.start}-{seeds.stop}",
        "LD_PRELOAD": preload,
        "ASAN_OPTIONS": "detect_leaks=0",  # Python and torch leave memory to the system at their end
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "OMP_NUM_THREADS": "1",
    }
    # -s: pytest would lose what a sanitizer says last. Its fault handler would take the signal before the sanitizer.
    command = [sys.executable, "-c", RUN, "-q", "-s", "-p", "no:faulthandler", "--timeout", "7200", *tests]
    ran = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    return ran.returncode, ran.stdout


def find_plants() -> None:
    """End the run unless every planted fault is found."""
    source = FOLDER / "planted"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(HERE, source)
    for plant in PLANTS:
        file = source / plant.file
        text = file.read_text()
        assert text.count(plant.sound) == 1, f"{plant.file} holds {plant.sound!r} {text.count(plant.sound)} times"
        file.write_text(text.replace(plant.sound, plant.faulty))
    folder = compiled(source / "built", ["plain", "neon"], source)
    level = levels()[0]
    for plant in PLANTS:
        status, output = tested(folder, level, plant.tests, range(2000))
        if status == 0 or plant.words not in output:
            sys.exit(f"{output}\nthe fault planted in {plant.file} was not found: {plant.faulty}")
        print(f"found the fault planted in {plant.file}: {plant.words}", flush=True)


def main() -> None:
    """Plant and find faults, then run everything with the kernels as they are, a job on each core."""
    find_plants()
    folder = compiled(FOLDER / "built", levels())

    def job(level: str, tests: list[str], seeds: range) -> None:
        started = time.monotonic()
        status, output = tested(folder, level, tests, seeds)
        if status:
            raise SystemExit(f"{output}\nfailed with the kernels of level {level}: {' '.join(tests)}")
        told = [line for line in output.splitlines() if " files: " in line or " passed" in line]
        print(f"{level}, {(time.monotonic() - started) / 60:.0f} minutes: {'; '.join(told)}", flush=True)

    with ThreadPoolExecutor(os.cpu_count()) as beside:
        jobs = [beside.submit(job, level, [*SUITE, "-m", "not slow"], range(0)) for level in levels()]
        share = FILES // len(levels())
        jobs += [
            beside.submit(job, level, MUTATED, range(FILES)[number * share :][:share])
            for number, level in enumerate(levels())
        ]
        for one in jobs:
            one.result()


if __name__ == "__main__":
    main()
