"""Every number that a command takes: no flag is without a range, and what is out of it ends in one line, by name."""

import importlib
import re
import sys
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from torchrec_pss.flags import Number, Parser, plot_path
from torchrec_pss.ranges import RANGES

ROOT = Path(__file__).parent.parent
OF_ARGUMENTS_ONLY = {"max_bytes", "prefix", "slices", "optimizer_states"}
TRIED = ["nan", "inf", "-inf", "0", "-1", "1e400", "", "x", "9" * 400, "1_0", "٣٣"]


class Captured(Exception):
    """A command's parser, in place of what it would have done."""


def files_with_a_parser():
    folders = [ROOT / name for name in ("examples", "torchrec_pss", "benchmarks", "tests")]
    texts = {path: path.read_text() for folder in folders for path in sorted(folder.rglob("*.py"))}
    return [
        path
        for path, text in texts.items()
        if re.search(r"\b(Parser|command_parser)\(", text) and path.name not in NOT_COMMANDS
    ]


NOT_COMMANDS = {"flags.py", Path(__file__).name}
COMMANDS = {str(path.relative_to(ROOT)): path for path in files_with_a_parser()}


def parser_of(name, monkeypatch):
    path = COMMANDS[name]
    own_folder = path.parent.name in ("examples", "tests")
    if own_folder:
        monkeypatch.syspath_prepend(str(path.parent))
    module = importlib.import_module(path.stem if own_folder else name.removesuffix(".py").replace("/", "."))

    def captured(self, *_):
        raise Captured(self)

    with monkeypatch.context() as inside, pytest.raises(Captured) as found:
        inside.setattr(Parser, "parse_args", captured)
        inside.setattr(sys, "argv", [name])
        inside.setenv("MALLOC_TRIM_THRESHOLD_", "set")  # or those that want it set would start themselves anew
        getattr(module, "main", None) and module.main()
        module.parse()
    return found.value.args[0]


def needed(parser, but):
    """Arguments that a command does not go without, other than ``but``."""
    inside = [group._group_actions for group in parser._mutually_exclusive_groups if group.required]
    required = [a for a in parser._actions if a.required and a is not but] + [actions[0] for actions in inside]
    found = []
    for action in required:
        value = action.choices[0] if action.choices else f"{action.type.range.high}" if is_number(action) else "x"
        found += [action.option_strings[0], value] if action.option_strings else [value]
    return found


def is_number(action):
    return isinstance(action.type, Number)


def allowed(range_, text):
    """What the table says of a text."""
    if "_" in text or not text.isascii():
        return False
    try:
        value = int(text) if range_.kind is int else float(text)
    except ValueError:
        return False
    if range_.open:
        return range_.low < value < range_.high
    return range_.low <= value <= range_.high


def test_there_are_commands():
    assert len(COMMANDS) >= 16
    for path in [*ROOT.glob("examples/*.py"), *ROOT.glob("benchmarks/**/*.py"), *ROOT.glob("torchrec_pss/**/*.py")]:
        if path.name not in NOT_COMMANDS:
            assert "ArgumentParser(" not in path.read_text(), f"{path} has a parser without the table of ranges"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_number_of_a_command(name, monkeypatch, capsys):
    parser = parser_of(name, monkeypatch)
    for action in parser._actions:
        flag = (action.option_strings or [action.dest])[0]
        assert is_number(action) or action.type in (None, str, Path, plot_path), f"{name} {flag}: no range in RANGES"
        plain = not is_number(action) and action.nargs != 0
        assert not (plain and isinstance(action.default, int | float)), f"{name} {flag}: no range in RANGES"
        if not is_number(action):
            continue
        range_, others = action.type.range, needed(parser, action)
        over = f"{range_.high + 1}" if range_.kind is int else f"{range_.high * 1.01!r}"
        in_lists = [f"-4,{range_.low}", f"{range_.low},nan", f"{range_.low},"] if range_.is_list else []
        for text in [*TRIED, over, *in_lists]:
            if allowed(range_, text):
                found = getattr(parser.parse_args([*others, flag, text]), action.dest)
                assert found in ([float(text)], float(text))
                continue
            with pytest.raises(SystemExit) as left:
                parser.parse_args([*others, flag, text])
            error = capsys.readouterr().err
            assert left.value.code == 2 and error.count("\n") == 1, error
            assert error.startswith(f"error: {flag} must be"), error
            assert f"got {text[:40] or repr(text)}" in error or f"got {text!r}" in error, error
        if not range_.open:
            parser.parse_args([*others, flag, f"{range_.low!r}"])


@pytest.mark.parametrize("name", COMMANDS)
def test_a_plot_that_cannot_be_drawn_is_refused_before_anything_is_measured(name, monkeypatch, capsys):
    parser = parser_of(name, monkeypatch)
    if "--plot" not in parser._option_string_actions:
        return
    others = needed(parser, None)
    for path in ("a.png", "b.PDF", "of.it/c"):
        assert parser.parse_args([*others, "--plot", path]).plot == Path(path)
    with pytest.raises(SystemExit) as left:
        parser.parse_args([*others, "--plot", "p.xyz"])
    error = capsys.readouterr().err
    assert left.value.code == 2 and re.fullmatch(r"error: --plot must end in one of .*png.*, got 'p\.xyz'\n", error)
    with monkeypatch.context() as inside, pytest.raises(SystemExit):
        inside.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
        parser.parse_args([*others, "--plot", "a.png"])
    assert "--plot: needs matplotlib: pip install" in capsys.readouterr().err


def test_no_range_is_left_over(monkeypatch):
    used = {a.option_strings[0][2:] for name in COMMANDS for a in parser_of(name, monkeypatch)._actions if is_number(a)}
    assert used | OF_ARGUMENTS_ONLY == set(RANGES)


@pytest.mark.parametrize("flag, value", [
        ("--synthetic_skew", "nan"), ("--lr_warmup_steps", "-5"), ("--dcn_num_layers", "0"), ("--average_power", "nan"),
        ("--collective_timeout_s", "1e-9"), ("--dense_arch_layer_sizes", "-4,16"), ("--seed", "-1"), ("--seed", str(2**70)),
        ("--learning_rate", "inf"), ("--compression", "nan"), ("--synthetic_scale", "inf"), ("--train_fraction", "nan"),
        ("--max_bad_rows", "-1"), ("--batch_size", str(10**12)), ("--embedding_dim", str(10**9)),
        ("--synthetic_rows", str(10**18)), ("--array_bytes", "1e400GB"), ("--array_bytes", "-1MB"), ("--eps", "1e-300"),
        ("--rank_memory", "nan"), ("--target_auroc", "1"),
    ])  # fmt: skip
@pytest.mark.parametrize("script", ["train_criteo", "train_interactions"])
def test_a_script_writes_nothing(script, flag, value, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    main = importlib.import_module(script).main
    path = ["--path", str(tmp_path)] if script == "train_interactions" else []
    with pytest.raises(SystemExit) as left:
        main([*path, flag, value, "--output_dir", str(tmp_path / "out")])
    error = capsys.readouterr().err
    of_both = {"--seed", "--learning_rate", "--compression", "--batch_size", "--embedding_dim"}
    named = f"error: {flag} must be" if script == "train_criteo" or flag in of_both else "error: unrecognized arguments"
    assert left.value.code == 2 and error.startswith(named) and value in error
    assert not (tmp_path / "out").exists()


def test_a_launcher_is_told_what_was_wrong(tmp_path, monkeypatch, capsys):
    """As torch.distributed.elastic reads it for the summary that it ends with."""
    file = tmp_path / "of" / "a_rank" / "error.json"
    file.parent.mkdir(parents=True)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
    parser = Parser()
    parser.add_argument("--bits", type=int, choices=[4])
    with pytest.raises(SystemExit):
        parser.parse_args(["--bits", "5"])
    failure = ProcessFailure(local_rank=0, pid=1, exitcode=2, error_file=str(file))
    told = failure.error_file_data["message"]["message"]
    assert f"{told}\n" == capsys.readouterr().err and "--bits: invalid choice: 5" in told
    assert failure.timestamp > 0
