"""``torchrec-pss``: one name for all commands, and the doctor."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from torchrec_pss import commands
from torchrec_pss.doctor import __main__ as doctor
from torchrec_pss.doctor import kernels, packages
from torchrec_pss.doctor.findings import FINE, NOTE, WRONG
from torchrec_pss.ops import library
from torchrec_pss.version import __version__

PACKAGE = Path(commands.__file__).parent


@pytest.fixture(autouse=True)
def logging_as_it_was():
    logger = logging.getLogger("torchrec_pss.datasets")
    level, handlers = logger.level, list(logging.root.handlers)
    yield
    logger.setLevel(level)
    logging.root.handlers[:] = handlers


def test_every_command_has_its_name_and_an_example(capsys):
    assert set(commands.COMMANDS) == {path.parent.name for path in PACKAGE.glob("*/__main__.py")}
    for name in commands.COMMANDS:
        with pytest.raises(SystemExit) as end:
            commands.main([name, "--help"])
        told = capsys.readouterr().out
        assert end.value.code == 0 and told.startswith(f"usage: torchrec-pss {name} ")
        assert f"\nexamples:\n  torchrec-pss {name}" in told


def test_the_console_script():
    script = Path(sys.executable).parent / "torchrec-pss"
    done = subprocess.run([script, "--version"], text=True, capture_output=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, f"torchrec_pss {__version__}\n")
    done = subprocess.run([script, "schema", "nowhere.csv"], text=True, capture_output=True, timeout=120)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "nowhere.csv" in done.stderr


def test_an_unknown_command_is_named(capsys):
    with pytest.raises(SystemExit) as end:
        commands.main(["plam"])
    assert end.value.code == 2 and "invalid choice: 'plam'" in capsys.readouterr().err


def test_the_doctor_finds_this_environment_well(tmp_path, capsys):
    assert doctor.main(["--json", str(tmp_path / "d.json")]) == 0
    found = {f["about"]: f for f in json.loads((tmp_path / "d.json").read_text())}
    assert all(f["state"] != WRONG for f in found.values())
    assert found["C++ kernel"]["found"].split(",")[0] in ("avx512", "avx2", "portable")
    assert "equals the reference" in found["a lookup (cpu)"]["found"] and found["torchrec_pss"]["found"] == __version__
    assert "a lookup (cpu)" in capsys.readouterr().out


def test_a_kernel_that_does_not_load(tmp_path, monkeypatch):
    broken = tmp_path / "libtorchrec_pss_ops.so"
    monkeypatch.setattr(library, "HAS_CPU_KERNEL", False)
    monkeypatch.setattr(library, "LIBRARY", broken)
    (missing,) = kernels.cpu_kernel()
    assert missing.state == NOTE and "was not built" in missing.found and "--no-build-isolation" in missing.remedy
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "install a C++ compiler" in kernels.cpu_kernel()[0].remedy
    broken.write_bytes(b"no library" * 1000)
    (other,) = kernels.cpu_kernel()
    assert "does not load" in other.found and "invalid ELF header" in other.found and other.remedy
    broken.with_suffix(".torch").write_text("1.13")
    assert "compiled for torch 1.13, and this is 2." in kernels.cpu_kernel()[0].found
    for stamp in (b"\xff", b"", f"{library.torch.__version__[:4]}\n".encode()):  # unreadable, empty, right
        broken.with_suffix(".torch").write_bytes(stamp)
        assert library.why_not(broken) is None
    monkeypatch.setenv("TORCHREC_PSS_ISA", "AVX512")
    assert "is none of portable, avx2, avx512" in kernels._less_was_asked_for()


@pytest.mark.parametrize(
    ("there", "state", "told"),
    [
        ({"torch": "2.13.0+cpu", "fbgemm-gpu-cpu": "1.8.0"}, FINE, "fbgemm-gpu-cpu 1.8.0"),
        ({"torch": "2.11.0", "fbgemm-gpu": "1.8.0"}, NOTE, "built for torch 2.13"),
        ({"torch": "2.13.0", "fbgemm-gpu": "1.8.0", "fbgemm-gpu-cpu": "1.8.0"}, WRONG, "two builds"),
        ({"torch": "2.13.0"}, NOTE, "not installed"),
    ],
)
def test_generations_of_fbgemm_and_torch(there, state, told, monkeypatch):
    monkeypatch.setattr(packages, "installed", there.get)
    (found,) = packages.generation()
    assert found.state == state and told in found.found and bool(found.remedy) == (state != FINE)


def test_versions_outside_the_ranges_and_missing_ones(monkeypatch):
    there = {"torch": "2.30.0", "numpy": "2.0", "torchrec": None, "torchmetrics": None}
    monkeypatch.setattr(packages, "installed", there.get)
    found = {f.about: f for f in packages.versions()}
    assert found["torch"].state == NOTE and "lies outside" in found["torch"].found
    assert found["tqdm"].state == WRONG and "pip install 'tqdm" in found["tqdm"].remedy
    assert found["torchrec"].state == NOTE and "torchrec_pss.nn" in found["torchrec"].remedy


def test_a_cpu_build_beside_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "_DEVICES", (str(tmp_path),))
    monkeypatch.setattr("torch.version.cuda", None)
    (found,) = kernels.gpu()
    assert found.state == WRONG and "build for the CPU" in found.found and "CUDA build" in found.remedy


def test_what_cannot_be_looked_at_is_wrong(monkeypatch, capsys):
    monkeypatch.setitem(doctor._LOOKED_AT, "GPU", lambda: 1 / 0)
    assert doctor.main([]) == 1 and "ZeroDivisionError" in capsys.readouterr().out
