"""``python tests/try_wheel.py WHEEL`` (make wheels): installs it where the repository is not, and uses it.

Two environments: one has what the wheel asks for, torch and little else, and tries `torchrec_pss.nn`. The other sees the packages of the
environment that calls this, TorchRec among them, and runs the README's first snippet.
"""

import re
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
PIP = ("-m", "pip", "--disable-pip-version-check", "install", "--quiet")
ALONE = (
    "import torch, torchrec_pss\n"
    "from torchrec_pss.nn import SharedEmbeddingBag, Table\n"
    "from torchrec_pss.ops import HAS_CPU_KERNEL\n"
    "assert HAS_CPU_KERNEL, 'the C++ kernel does not load'\n"
    "bag = SharedEmbeddingBag([Table('user', 10**9, 16)], torchrec_pss.PSSConfig(array_bytes='1MB', bits=4))\n"
    "bag({'user': torch.tensor([10**12, -1])}).sum().backward()\n"
    "print(torchrec_pss.__file__, bag.array.grad.count_nonzero().item(), 'elements have a gradient')\n"
)


def call(*command: object, folder: Path) -> str:
    done = subprocess.run([str(c) for c in command], text=True, capture_output=True, cwd=folder, timeout=600)
    if done.returncode:
        raise SystemExit(
            f"{' '.join(map(str, command))[:200]} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        )
    return done.stdout


def alone(folder: Path, wheel: Path) -> None:
    """With torch and what else the wheel's metadata names."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    call(python, *PIP, "-c", ROOT / "requirements/constraints.txt", wheel, folder=folder)
    found = call(python, "-c", ALONE, folder=folder)
    assert str(folder) in found, found
    print(found + call(folder / "bin/torchrec-pss", "doctor", folder=folder))


def with_torchrec(folder: Path, wheel: Path) -> None:
    """With the packages of the environment that calls this."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    packages = Path(call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=folder).strip())
    (packages / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    call(python, *PIP, "--no-deps", "--ignore-installed", wheel, folder=folder)
    snippet = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    found = call(python, "-W", "ignore", "-c", f"{snippet}\nprint(ebc)\nprint(torchrec_pss.__file__)".replace("import torch\n", "import torch, torchrec_pss\n", 1), folder=folder)  # fmt: skip
    assert str(folder) in found, found
    print(found + call(folder / "bin/torchrec-pss", "doctor", folder=folder))


if __name__ == "__main__":
    made = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as name:
        alone(Path(name) / "alone", made)
        with_torchrec(Path(name) / "torchrec", made)
