"""Pictures of plans and of advice: bars as long as the figures say, and files of the format that their names say."""

import pytest
from torchrec.distributed.planner.types import PlannerError

from torchrec_pss.advise import plots as advise_plots
from torchrec_pss.distributed.planner.report import PlanReport
from torchrec_pss.plan import __main__ as plan
from torchrec_pss.plan.plots import draw, figure_of

PARTS = ("fwd_compute", "fwd_comms", "bwd_compute", "bwd_comms")


def report(of_ranks, *milliseconds):
    return PlanReport([], None, max(of_ranks), dict(zip(PARTS, milliseconds, strict=True)), of_ranks)


PLANS = {
    "never": report([2 * 10**10, 10**9, 0], 1, 2, 3, 4),
    "auto": report([7 * 10**7] * 3, 0.5, 0, 0.25, 0.25),
    "always": "no plan",
}


def test_bars_of_a_plan_are_as_long_as_its_figures():
    axes = figure_of(PLANS).axes
    *of_ranks, steps = axes
    assert [axis.get_title() for axis in of_ranks] == ["--pss auto", "--pss always", "--pss never"]
    drawn = [axis.patches[0].get_data().values.tolist() if axis.patches else None for axis in of_ranks]
    assert drawn == [[7 * 10**7] * 3, None, [2 * 10**10, 10**9, 0]]
    assert of_ranks[1].texts[0].get_text() == "no plan" and "20.0 GB" in of_ranks[2].get_xlabel()
    assert of_ranks[0].get_ylim() == of_ranks[2].get_ylim() == (0, pytest.approx(2.1e10))
    bars = [(b.get_y() + b.get_height() / 2, b.get_x(), b.get_width()) for b in steps.patches]
    # By row, auto's first: each part begins where the one before ends.
    assert bars == [(0, 0, 0.5), (2, 0, 1), (0, 0.5, 0), (2, 1, 2), (0, 0.5, 0.25), (2, 3, 3), (0, 0.75, 0.25), (2, 6, 4)]  # fmt: skip
    assert [text.get_text().strip() for text in steps.texts] == ["1 ms", "no plan", "10 ms"]


BEGINNINGS = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
ROW = {"compression": 10, "bytes": 4000, "drop": {"expected": 0.002, "low": 0.0, "high": 0.003}}


@pytest.mark.parametrize("ending", BEGINNINGS)
def test_files_have_the_format_of_their_names(tmp_path, ending):
    draw(tmp_path / f"plan.{ending}", PLANS)
    advise_plots.draw(tmp_path / f"advise.{ending}", [ROW, ROW | {"bytes": 400, "compression": 100}], 0.001, ROW)
    for file in (tmp_path / f"plan.{ending}", tmp_path / f"advise.{ending}"):
        assert file.read_bytes().startswith(BEGINNINGS[ending])
    assert len(list(tmp_path.iterdir())) == 2


def test_no_plan_at_all_is_drawn_too(tmp_path):
    draw(tmp_path / "a.png", dict.fromkeys(PLANS, "no plan"))
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_the_command_draws_all_modes(tmp_path, monkeypatch, capsys):
    def planned(args, tables, mode):
        if isinstance(PLANS[mode], str):
            raise PlannerError("does not fit")
        return PLANS[mode]

    monkeypatch.setattr(plan, "planned", planned)
    assert plan.main(["--tables", "kaggle", "--plot", str(tmp_path / "plan.png")]) == 0
    assert (tmp_path / "plan.png").read_bytes().startswith(BEGINNINGS["png"])
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(SystemExit) as end:
        plan.main(["--tables", "kaggle", "--plot", str(tmp_path / "folder.png")])
    assert end.value.code == 2 and "--plot" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        plan.main(["--tables", "kaggle", "--plot", str(tmp_path / "plan.doc")])
    assert "--plot must end in one of" in capsys.readouterr().err
