"""Which kernels are active here, and why not others."""

import ctypes
import os
import shutil
import warnings
from importlib.util import find_spec
from pathlib import Path

from torchrec_pss.doctor.findings import FINE, NOTE, WRONG, Finding

_REINSTALL = "pip install --force-reinstall --no-deps --no-build-isolation, of the wheel or folder it came from"
_ISAS = ("portable", "avx2", "avx512")
_DEVICES = ("/dev/nvidia0", "/proc/driver/nvidia/version")  # of NVIDIA's driver


def cpu_kernel() -> list[Finding]:
    """The C++ kernel: whether it loads into this torch, and the instruction set that it chose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what ops would warn of is found below
        from torchrec_pss.ops import library
    path = library.LIBRARY
    if library.HAS_CPU_KERNEL:
        return [Finding("C++ kernel", FINE, f"{isa(path)}, {path.name}", _less_was_asked_for())]
    if not path.exists():
        compiler = next((found for name in ("c++", "g++", "clang++") if (found := shutil.which(name))), None)
        remedy = _REINSTALL if compiler else f"install a C++ compiler (apt-get install g++), then {_REINSTALL}"
        return [Finding("C++ kernel", NOTE, "was not built: lookups use plain PyTorch, many times slower", remedy)]
    why = library.why_not(path) or _error_of(path)
    return [Finding("C++ kernel", NOTE, f"does not load: {why}; lookups use plain PyTorch", _REINSTALL)]


def _error_of(path: Path) -> str:
    try:
        ctypes.CDLL(str(path))
    except OSError as error:
        return str(error).strip().splitlines()[-1]
    return "its operators are not defined"


def isa(library: Path) -> str:
    """ "avx512", "avx2" or "portable"."""
    ask = ctypes.CDLL(str(library)).torchrec_pss_isa
    ask.restype = ctypes.c_char_p
    return ask().decode()


def _less_was_asked_for() -> str:
    asked = os.environ.get("TORCHREC_PSS_ISA")
    if asked and asked not in _ISAS:
        return f"TORCHREC_PSS_ISA={asked} is none of {', '.join(_ISAS)}: unset it"
    return f"TORCHREC_PSS_ISA={asked} is set: unset it for the best of this processor" if asked else ""


def fbgemm() -> list[Finding]:
    """Whether FBGEMM's library loads into this torch, which TorchRec needs."""
    if find_spec("fbgemm_gpu") is None:
        return [Finding("FBGEMM's library", NOTE, "not installed", "needed by TorchRec alone")]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import fbgemm_gpu  # noqa: F401
    except Exception as error:
        why = str(error).strip().splitlines()[0][:200]
        remedy = "install the FBGEMM that belongs to this torch: see fbgemm above"
        return [Finding("FBGEMM's library", WRONG, f"does not load: {why}", remedy)]
    return [Finding("FBGEMM's library", FINE, "loads")]


def gpu() -> list[Finding]:
    """The GPU, whether torch is a build for it, and whether Triton is there, whose kernels we have on it."""
    import torch

    there = any(os.path.exists(path) for path in _DEVICES)
    if torch.version.cuda is None:
        if there:
            remedy = "install torch's CUDA build, and fbgemm-gpu instead of fbgemm-gpu-cpu"
            return [
                Finding("GPU", WRONG, f"there is one, but torch {torch.__version__} is a build for the CPU", remedy)
            ]
        return [Finding("GPU", FINE, "none, and torch is a build for the CPU")]
    if not torch.cuda.is_available():
        remedy = "nvidia-smi shows driver and devices; CUDA_VISIBLE_DEVICES may hide them" if there else ""
        state = WRONG if there else NOTE
        return [Finding("GPU", state, f"torch {torch.__version__} finds none (CUDA {torch.version.cuda})", remedy)]
    count = torch.cuda.device_count()
    devices = ", ".join(dict.fromkeys(torch.cuda.get_device_name(i) for i in range(count)))
    found = [Finding("GPU", FINE, f"{count} ({devices}), CUDA {torch.version.cuda}")]
    if find_spec("triton") is None:
        why = "plain PyTorch: Triton is not installed"
        return [*found, Finding("GPU kernels", NOTE, why, "pip install triton, of the version that torch names")]
    return [*found, Finding("GPU kernels", FINE, "Triton's")]
