"""Versions: of what is installed, whether they lie in our ranges, and whether torch, TorchRec and FBGEMM are of one generation."""

import platform
import re
import sys
from importlib import metadata

from torchrec_pss.doctor.findings import FINE, NOTE, WRONG, Finding
from torchrec_pss.version import __version__

_FBGEMM = ("fbgemm-gpu", "fbgemm-gpu-cpu", "fbgemm-gpu-nightly", "fbgemm-gpu-nightly-cpu")
_OPTIONAL = ("triton", "pyarrow", "matplotlib", "safetensors", "fastapi", "torchx")
_BEHIND_TORCH = 5  # FBGEMM 1.6 is built for torch 2.11, 1.8 for 2.13
_ALONE = "pip install --no-deps torchrec, and fbgemm-gpu or fbgemm-gpu-cpu; without them torchrec_pss.nn works"


def installed(name: str) -> str | None:
    """A distribution's version."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def versions() -> list[Finding]:
    """Of Python, of this package, and of what it rests on."""
    found = [
        Finding("python", FINE, f"{platform.python_version()}, {platform.system()} {platform.machine()}"),
        Finding("torchrec_pss", FINE, __version__),
        *(_in_range(name, needed) for name, needed in _ranges().items()),
    ]
    if "torchrec" not in {f.about for f in found}:
        found.append(_torchrec(None, ""))
    others = [f"{name} {version}" for name in _OPTIONAL if (version := installed(name))]
    found.append(Finding("optional packages", FINE, ", ".join(others) or "none"))
    return found


def generation() -> list[Finding]:
    """Whether FBGEMM was built for this torch."""
    here = {name: version for name in _FBGEMM if (version := installed(name))}
    if not here:
        return [Finding("fbgemm", NOTE, "not installed", _ALONE)]
    shown = ", ".join(f"{name} {version}" for name, version in here.items())
    if len(here) > 1:
        remedy = f"keep one: pip uninstall {' '.join(here)}, then install the one for this machine"
        return [Finding("fbgemm", WRONG, f"{shown}: two builds in one place", remedy)]
    torch, fbgemm = _minor(installed("torch")), _minor(next(iter(here.values())))
    if torch is not None and fbgemm is not None and torch != fbgemm + _BEHIND_TORCH:
        remedy = f"pip install {next(iter(here))}==1.{torch - _BEHIND_TORCH}.*, or torch==2.{fbgemm + _BEHIND_TORCH}.*"
        return [Finding("fbgemm", NOTE, f"{shown}, built for torch 2.{fbgemm + _BEHIND_TORCH}", remedy)]
    return [Finding("fbgemm", FINE, shown)]


def _ranges() -> dict[str, str]:
    """What the package's metadata asks for, without its extras but TorchRec's."""
    needed = {}
    for line in metadata.requires("torchrec_pss") or ():
        match = re.match(r"([\w.-]+)\s*([^;]*)(?:;\s*extra == \"(\w+)\")?", line)
        if match and match[3] in (None, "torchrec"):
            needed[match[1]] = match[2].strip()
    return needed


def _in_range(name: str, needed: str) -> Finding:
    version = installed(name)
    if name in ("torchrec", "torchmetrics") and version is None:
        return _torchrec(version, needed) if name == "torchrec" else Finding(name, NOTE, "not installed", _ALONE)
    if version is None:
        return Finding(name, WRONG, "not installed", f"pip install '{name}{needed}'")
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError:  # none of ours: nothing is said of the range
        return Finding(name, FINE, version)
    if SpecifierSet(needed).contains(version.split("+")[0], prereleases=True):
        return Finding(name, FINE, version)
    return Finding(
        name, NOTE, f"{version} lies outside {needed}, which was tested", f"pip install '{name}{needed}' if it fails"
    )


def _torchrec(version: str | None, needed: str) -> Finding:
    return Finding("torchrec", FINE if version else NOTE, version or "not installed", "" if version else _ALONE)


def _minor(version: str | None) -> int | None:
    match = re.match(r"\d+\.(\d+)", version or "")
    return int(match[1]) if match else None


def interpreter() -> list[Finding]:
    """Where Python and the package lie: two installations in one environment are a frequent surprise."""
    from torchrec_pss import version

    return [Finding("where", FINE, f"{sys.executable}, {version.__file__.removesuffix('/version.py')}")]
