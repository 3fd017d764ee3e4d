"""A day that is killed at any moment ends, run again, as one that was not."""

import shutil

import pytest

from interactrank_jax.daily import history
from interactrank_jax.daily.root import Root
from interactrank_jax.io import files
from tests.daily.conftest import DAYS, FIRST, LATER, Loop
from tests.daily.fake_commands import FakeCommands, Killed


class TestKills:
    """By commands that do no work."""

    @pytest.fixture(scope="class")
    def whole(self, tmp_path_factory, log):
        """ROOT of three days that nothing interrupted, at the path where all others were made."""
        path = tmp_path_factory.mktemp("kills") / "root"
        loop = Loop(Root(path), log)
        contents = []
        for day in DAYS[:3]:
            loop.run(day)
            contents.append(loop.contents())
        path.rename(path.with_name("whole"))
        return path, contents

    def _loop(self, whole, log):
        path = whole[0]
        shutil.rmtree(path, ignore_errors=True)
        return Loop(Root(path), log)

    @pytest.mark.long  # whole days of commands
    @pytest.mark.parametrize("moment", ["before", "after"])
    def test_at_each_step(self, whole, log, moment):
        """Each step of three days is killed once, before or after it has written."""
        loop, seen = self._loop(whole, log), set()
        for day, expected, names in zip(DAYS, whole[1], [FIRST, LATER, LATER], strict=False):
            for _ in names:
                with pytest.raises(Killed):
                    loop.run(day, FakeCommands(kill_new=moment, seen=seen))
            loop.run(day, FakeCommands(kill_new=moment, seen=seen))
            assert loop.contents() == expected

    @pytest.mark.long  # a restart at each of twelve steps
    @pytest.mark.parametrize(
        ("where", "what"),
        [
            (files, "write_json"),
            (Root, "settle"),
            (Root, "_publish"),
            (Root, "_record"),
            (history, "draw_if_older"),
            (Root, "remove_old"),
        ],
    )
    @pytest.mark.parametrize("moment", ["before", "after"])
    def test_between_the_verdict_and_the_end(self, whole, log, where, what, moment, monkeypatch):
        loop = self._loop(whole, log)
        for day, expected in zip(DAYS, whole[1], strict=False):
            with pytest.raises(Killed):
                loop.run(day, FakeCommands(kill=(len(FIRST if day == DAYS[0] else LATER), "after")))
            with monkeypatch.context() as patch:
                original = getattr(where, what)

                def dying(*arguments, original=original):
                    if moment == "after":
                        original(*arguments)
                    raise Killed

                patch.setattr(where, what, dying)
                with pytest.raises(Killed):
                    loop.run(day)
            _, commands = loop.run(day)
            assert not commands.calls
            assert loop.contents() == expected

    def test_of_a_refused_day(self, loop):
        loop.run(DAYS[0])
        seen = set()
        for _ in LATER[:-1]:  # all but the export
            with pytest.raises(Killed):
                loop.run(DAYS[1], FakeCommands({DAYS[1]: 0.6}, kill_new="after", seen=seen))
        line, _ = loop.run(DAYS[1], FakeCommands({DAYS[1]: 0.6}))
        assert line["outcome"] == "refused"
        assert loop.published() == DAYS[0]

    def test_a_day_that_was_given_up_leaves_nothing_behind(self, loop):
        loop.run(DAYS[0])
        with pytest.raises(Killed):
            loop.run(DAYS[1], FakeCommands(kill=(5, "after")))
        line, _ = loop.run(DAYS[2])
        assert line["base"] == DAYS[0]
        assert line["since"] == "2022-01-19"
        assert loop.root.days() == [DAYS[0], DAYS[2]]
