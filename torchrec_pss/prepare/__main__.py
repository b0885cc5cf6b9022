"""Reads click logs once into a folder that training maps into memory: hashed ids, ready numbers, any row at once.

    torchrec-pss prepare /data/logs prepared --schema logs.yaml
    python examples/train_criteo.py --data_path prepared

One that was stopped goes on. A schema's split divides the rows here.
"""

import logging
from pathlib import Path

from torchrec_pss.datasets.open_rows import schema_of
from torchrec_pss.datasets.preparing import PART_ROWS, prepare
from torchrec_pss.flags import add_number, command_parser


def main(argv: list[str] | None = None) -> None:
    parser = command_parser("prepare", __doc__)
    parser.add_argument("data_path", help="text or Parquet, a file or a folder (docs/guides/your_data.md)")
    parser.add_argument("output", type=Path, help="the folder that is made")
    parser.add_argument("--schema", help="of rows that are not Criteo's text: a JSON or YAML file")
    add_number(parser, "--workers", help="processes (default: as many as there are cores)")
    add_number(parser, "--part_rows", default=PART_ROWS, help="rows of a part, each a file")
    add_number(parser, "--max_bad_rows", default=100, help="malformed rows to leave out before giving up")
    parser.add_argument("--cache_dir", help="where numbers of rows are kept for the next time")
    args = parser.parse_args(argv)
    try:
        manifest = prepare(
            args.data_path, args.output, schema_of(args.data_path, args.schema), workers=args.workers, part_rows=args.part_rows, max_bad_rows=args.max_bad_rows,
            cache_dir=args.cache_dir,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        parser.error(str(error))
    parts = [part for file in manifest["files"] for part in file["parts"]]
    rows = sum(part["rows"] - len(part["left_out"]) for part in parts)
    size = sum(part["bytes"] for part in parts)
    print(
        f"{args.output}: {rows:,} rows in {len(parts)} parts of {size:,} bytes in all, {size / max(rows, 1):.1f} a row"
    )
    for file in manifest["files"]:
        print(f"  {file['name']}: {sum(p['rows'] for p in file['parts']):,} rows")


if __name__ == "__main__":
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    main()
