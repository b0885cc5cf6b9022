"""Writes a schema for a log of your own, from a look at its first rows.

    torchrec-pss schema clicks.csv --output clicks.yaml

Look it through, and correct it: what is a number and what a token is a guess. train_criteo.py, torchrec_pss.advise and ClickDataset take it.
"""

import sys
from pathlib import Path

from torchrec_pss.datasets.guessed_schema import as_yaml, guess
from torchrec_pss.datasets.locations import location
from torchrec_pss.flags import command_parser
from torchrec_pss.whole_file import refuse_overwriting, write_bytes


def main(argv: list[str] | None = None) -> None:
    parser = command_parser("schema", __doc__)
    parser.add_argument(
        "file",
        help="a path or URL: Parquet, or comma-, tab-, semicolon- or bar-separated text with a header, plain or gzip",
    )
    parser.add_argument("--label", help="the column that is 0 or 1 (default: by name, or the only one)")
    parser.add_argument("--output", type=Path, help="default: printed")
    args = parser.parse_args(argv)
    try:
        refuse_overwriting({"--output": args.output}, {"file": args.file})
        path = location(args.file)
        seen, rows = guess(path, args.label)
        text = as_yaml(seen, rows, path)
        if args.output is not None:
            write_bytes(args.output, text.encode())
    except (OSError, ValueError) as error:
        parser.error(str(error))
    for column in seen:
        if column.warning:
            print(f"warning: column {column.name!r}, first {rows:,} rows: {column.warning}", file=sys.stderr)
    print(
        text
        if args.output is None
        else f"{args.output}: look it through, then torchrec-pss advise --data_path {args.file} --schema {args.output} --bits 4, and train (docs/guides/your_data.md)"
    )


if __name__ == "__main__":
    main()
