"""`interactrank daily`: its flags, its status, and the figure of the history."""

import pytest

from interactrank_jax import cli
from interactrank_jax.daily import daily, history
from interactrank_jax.daily.history import draw
from interactrank_jax.daily.processes import run_command
from tests.daily.conftest import CONFIG, DAYS
from tests.daily.fake_commands import UNDEFINED, FakeCommands


class TestCommand:
    @pytest.fixture
    def flags(self, loop):
        flags = [f"--config={CONFIG}", f"--log={loop.log}", f"--root={loop.root.path}"]
        return ["daily", *flags, "--config.train.epochs=2"]

    def test_publishes_and_prints(self, loop, flags, monkeypatch, capsys):
        commands = FakeCommands()
        monkeypatch.setattr(daily, "run_command", commands)
        more = ["--memory=1GB", "--onnx=0", "--window=3"]
        assert cli.main([*flags, f"--day={DAYS[0]}", *more]) == 0
        output = capsys.readouterr().out
        assert f"{DAYS[0]} published in {loop.root.path}" in output
        assert "roc_auc of the new model, held out: 0.7000 (0.6800 to 0.7200)" in output
        for words in commands.calls:
            assert ("--memory=1GB" in words) == (words[0] not in ("train", "evaluate"))
            assert ("--config.train.epochs=2" in words) == (
                words[0] in ("train", "prepare") or words[1] == "build"
            )
            assert ("--onnx=0" in words) == (words[0] == "export")
        assert cli.main([*flags, f"--day={DAYS[1]}", *more]) == 0
        assert f"{DAYS[0]}'s model on the new day: 0.7000" in capsys.readouterr().out

    def test_a_refusal_has_a_status_and_a_reason(self, loop, flags, monkeypatch, capsys):
        monkeypatch.setattr(daily, "run_command", FakeCommands({DAYS[1]: 0.5}))
        assert cli.main([*flags, f"--day={DAYS[0]}"]) == 0
        for _ in range(2):
            assert cli.main([*flags, f"--day={DAYS[1]}"]) == 2
            printed = capsys.readouterr()
            assert f"{DAYS[1]} refused in" in printed.out
            assert "current stays as it is: roc_auc on the 30 held-out" in printed.err
        assert cli.main([*flags, f"--day={DAYS[1]}", "--max_fall=0.5"]) == 0
        assert loop.published() == DAYS[1]

    def test_a_model_of_the_users_is_registered_in_each_step_that_opens_its_run(
        self, loop, tmp_path, monkeypatch, registries
    ):
        config = tmp_path / "mine.py"
        config.write_text(
            "import interactrank_jax as ir\n"
            "from interactrank_jax.models.two_tower import TwoTower\n"
            "from tests.daily import config\n"
            "@ir.models.register('mine')\n"
            "class Mine(TwoTower):\n"
            "    pass\n"
            "def get_config():\n"
            "    built = config.get_config()\n"
            "    built.model.name = 'mine'\n"
            "    return built\n"
        )
        commands = FakeCommands()
        monkeypatch.setattr(daily, "run_command", commands)
        flags = ["daily", f"--config={config}", f"--log={loop.log}", f"--root={loop.root.path}"]
        assert cli.main([*flags, f"--day={DAYS[0]}"]) == 0
        for words in commands.calls:
            if words[0] in ("evaluate", "export"):
                assert f"--config={config}" in words


def test_the_history_is_drawn_where_days_lack_figures(loop, monkeypatch):
    monkeypatch.setattr(history, "draw", draw)
    loop.run(DAYS[0], FakeCommands({DAYS[0]: UNDEFINED}))
    assert loop.root.figure.read_bytes().startswith(b"\x89PNG")
    before = loop.root.figure.stat().st_mtime_ns
    loop.run(DAYS[1])
    loop.run(DAYS[2], FakeCommands(drift={DAYS[2]}))
    assert loop.root.figure.stat().st_mtime_ns > before


def test_a_command_runs_in_a_process_of_its_own_and_tells_its_status(capfd):
    assert run_command(["help"]) == 0
    assert "daily " in capfd.readouterr().out
    assert run_command(["prepare", "--log=a b"]) == 2
    assert "missing --config" in capfd.readouterr().err
