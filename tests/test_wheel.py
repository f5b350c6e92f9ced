"""What is built is what is meant: the wheel's contents, and that it works outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_the_wheel_holds_our_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    info = next(top for top in tops if top.endswith(".dist-info"))
    assert tops == {"localai", "backends", "memory_store", "tui", info}
    assert {"localai/models.toml", "localai/py.typed", "tui/py.typed", "backends/py.typed"} <= set(names)


def test_an_installed_wheel_lists_models_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    place = tmp_path / "venv"
    venv.create(place, with_pip=True)
    python = place / "bin" / "python"
    install = ["install", "--no-deps", "--quiet", "--disable-pip-version-check", str(wheel)]
    subprocess.run([python, "-m", "pip", *install], check=True)
    # The dependencies are this environment's; only our own packages must come from the wheel.
    site = next((place / "lib").glob("python*/site-packages"))
    own = [p for p in sys.path if p.endswith("site-packages")]
    (site / "dependencies.pth").write_text("\n".join(own))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"LOCALAI_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [place / "bin" / "localai", "models", "list", "--all"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "smollm2-135m-instruct" in done.stdout
    where = subprocess.run(
        [python, "-c", "import localai; print(localai.__file__)"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert Path(where.stdout.strip()).is_relative_to(place)
