"""What is installed, which kernels are active and why not others, with a remedy for each known trouble.

    torchrec-pss doctor
    torchrec-pss doctor --json doctor.json

The exit status is 1 where something will not work.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from torchrec_pss.doctor import kernels, lookup_check, packages
from torchrec_pss.doctor.findings import FINE, WRONG, Finding
from torchrec_pss.flags import command_parser
from torchrec_pss.whole_file import write_json

_LOOKED_AT: dict[str, Callable[[], list[Finding]]] = {
    "versions": packages.versions,
    "fbgemm": packages.generation,
    "where": packages.interpreter,
    "C++ kernel": kernels.cpu_kernel,
    "FBGEMM's library": kernels.fbgemm,
    "GPU": kernels.gpu,
    "a lookup": lookup_check.lookups,
}


def examine() -> list[Finding]:
    """All that is looked at, in order; what cannot be looked at is wrong."""
    found = []
    for about, look in _LOOKED_AT.items():
        try:
            found += look()
        except Exception as error:
            found.append(
                Finding(about, WRONG, f"{type(error).__name__}: {error}", "please report it, with this output")
            )
    return found


def main(argv: list[str] | None = None) -> int:
    parser = command_parser("doctor", __doc__)
    parser.add_argument("--json", type=Path, help="writes it for a machine, too")
    args = parser.parse_args(argv)
    found = examine()
    for finding in found:
        mark = "" if finding.state == FINE else f"{finding.state}: "
        print(f"{finding.about:18}{mark}{finding.found}")
        if finding.remedy:
            print(f"{'':18}-> {finding.remedy}")
    if args.json:
        try:
            write_json(args.json, [asdict(finding) for finding in found])
        except (OSError, ValueError) as error:
            parser.error(f"--json {args.json} cannot be written: {error}")
    return int(any(finding.state == WRONG for finding in found))


if __name__ == "__main__":
    raise SystemExit(main())
