"""``python -m torchrec_pss COMMAND``, where the console script is not on the path."""

from torchrec_pss.commands import main

if __name__ == "__main__":
    raise SystemExit(main())
