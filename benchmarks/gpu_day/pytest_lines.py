"""A pytest plugin: a JSON line a test, and tests that passed in an earlier call are not run again."""

from pathlib import Path

from benchmarks.gpu_day.lines import Lines


def pytest_addoption(parser) -> None:
    parser.addoption("--lines", type=Path, help="JSON lines, one a test")
    parser.addoption("--call", type=int, default=1, help="number of the day's call")


def pytest_configure(config) -> None:
    config.pluginmanager.register(_Writer(Lines(config.getoption("--lines"), config.getoption("--call"))))


class _Writer:
    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    def pytest_collection_modifyitems(self, config, items) -> None:
        done = [item for item in items if self._lines.is_done(item.nodeid)]
        items[:] = [item for item in items if not self._lines.is_done(item.nodeid)]
        if done:
            config.hook.pytest_deselected(items=done)

    def pytest_runtest_logreport(self, report) -> None:
        if report.failed:
            self._lines.add(report.nodeid, error=str(report.longrepr).strip().splitlines()[-1][:300])
        elif report.skipped:
            why = report.longrepr[-1] if isinstance(report.longrepr, tuple) else str(report.longrepr)
            self._lines.add(report.nodeid, left_out=why.removeprefix("Skipped: "))
        elif report.when == "call":
            self._lines.add(report.nodeid, seconds=round(report.duration, 3))
