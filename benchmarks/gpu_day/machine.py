"""What a report is of: device, driver's versions, and packages."""

import os
import platform

import torch

from torchrec_pss.doctor.packages import installed

_PACKAGES = ("torch", "triton", "torchrec", "fbgemm-gpu", "fbgemm-gpu-cpu")


def described(dry_run: bool) -> dict:
    """As JSON."""
    found = {"device": "a dry run on the CPU", "devices": 0}
    if not dry_run:
        properties = torch.cuda.get_device_properties(0)
        found = {"device": properties.name, "devices": torch.cuda.device_count()}
        found |= {"memory_bytes": properties.total_memory, "capability": f"{properties.major}.{properties.minor}"}
        found |= {"multiprocessors": properties.multi_processor_count, "cuda": torch.version.cuda}
    found |= {"cores": os.cpu_count(), "python": platform.python_version()}
    return found | {name: version for name in _PACKAGES if (version := installed(name))}
