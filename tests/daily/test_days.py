"""Day after day, by commands that do no work: what is run, kept and published."""

import pytest

from interactrank_jax.daily.plan import Windows
from interactrank_jax.io import files
from interactrank_jax.io.errors import InputError
from tests.daily.conftest import DAYS, FIRST, LATER
from tests.daily.fake_commands import FakeCommands, Killed


class TestFiveDays:
    @pytest.fixture
    def five_days(self, loop):
        return [loop.run(day) for day in DAYS]

    def test_the_first_is_trained_from_scratch_and_each_other_from_the_one_before(
        self, loop, five_days
    ):
        assert [commands.names for _, commands in five_days] == [FIRST] + [LATER] * 4
        for day, before in zip(DAYS, ("", *DAYS[:-1]), strict=True):
            version = loop.root.version(day)
            base = str(loop.root.version(before) / "run") if before else ""
            assert files.read_json(version / "run" / "model") == base
            extended = str(loop.root.version(before) / "examples") if before else ""
            since = "2022-01-08" if not before else f"2022-01-{int(day[-2:]) - 3}"
            assert files.read_json(version / "examples" / "made") == [since, day, extended, ""]
            assert files.read_json(version / "bundle" / "bundle.json") > day

    def test_yesterdays_model_is_evaluated_on_the_new_day_before_training(self, loop, five_days):
        for day, before, (_, commands) in zip(DAYS[1:], DAYS, five_days[1:], strict=False):
            made = files.read_json(loop.root.version(day) / "new_day" / "made")
            base = str(loop.root.version(before) / "run")
            assert made == [day, day, "", base]
            evaluated = next(words for words in commands.calls if words[0] == "evaluate")
            assert f"--workdir={base}" in evaluated
            assert commands.names.index("evaluate") < commands.names.index("train")

    def test_the_history_has_a_line_a_day_and_current_is_the_newest(self, loop, five_days):
        lines = loop.root.history()
        assert list(lines) == list(DAYS)
        assert list(lines.values()) == [line for line, _ in five_days]
        assert [line["base"] for line in lines.values()] == ["", *DAYS[:-1]]
        assert [line["progressive"] is None for line in lines.values()] == [True] + [False] * 4
        assert {line["outcome"] for line in lines.values()} == {"published"}
        assert lines[DAYS[2]]["difference"] == {"roc_auc": [0, -0.01, 0.01]}
        assert lines[DAYS[2]]["drift"]["psi"] == 0.1
        assert loop.published() == DAYS[-1]
        assert str((loop.root.path / "current").readlink()) == f"versions/{DAYS[-1]}/bundle"

    def test_features_of_the_day_are_compared_with_those_of_the_days_before(self, loop, five_days):
        version = loop.root.version(DAYS[-1])
        assert files.read_json(version / "features" / "made") == ["2022-01-24", "2022-01-24"]
        assert files.read_json(version / "compared" / "made") == ["2022-01-21", "2022-01-23"]

    def test_what_is_printed_is_what_is_run(self, loop, five_days):
        printed = [line.split(": interactrank ")[1] for line in loop.lines if "] " in line]
        run = [words for _, commands in five_days for words in commands.calls]
        assert [line.split() for line in printed] == [list(words) for words in run]


class TestRunAgain:
    def test_does_nothing(self, loop):
        first, _ = loop.run(DAYS[0])
        before, times = loop.contents(), self._times(loop)
        line, commands = loop.run(DAYS[0])
        assert line == first
        assert not commands.calls
        assert loop.contents() == before
        assert self._times(loop) == times
        assert f"{DAYS[0]} ended before: published" in loop.lines

    def _times(self, loop):
        return {path: path.stat().st_mtime_ns for path in loop.root.path.rglob("*")}

    def test_an_old_day_is_not_run_again_and_an_earlier_one_is_refused(self, loop):
        loop.run(DAYS[1])
        loop.run(DAYS[2])
        line, commands = loop.run(DAYS[1])
        assert (line["day"], commands.calls) == (DAYS[1], [])
        with pytest.raises(InputError, match=f"is at {DAYS[2]}, past {DAYS[0]}"):
            loop.run(DAYS[0])

    def test_with_another_config_a_day_that_was_begun_is_refused(self, loop):
        with pytest.raises(Killed):
            loop.run(DAYS[0], FakeCommands(kill=(3, "after")))
        with pytest.raises(InputError, match=r"another config: config\.train\.batch_size was 32"):
            loop.run(DAYS[0], fields={"train.batch_size": 16})

    def test_after_a_step_that_failed_it_goes_on(self, loop):
        with pytest.raises(InputError, match="step 'train' ended with status 2"):
            loop.run(DAYS[0], FakeCommands(failing="train"))
        line, commands = loop.run(DAYS[0])
        assert line["outcome"] == "published"
        assert commands.names == FIRST[2:]


class TestVersions:
    def test_the_newest_are_kept(self, loop):
        for day in DAYS:
            loop.run(day, keep=2)
        assert loop.root.days() == list(DAYS[-2:])
        assert list(loop.root.history()) == list(DAYS)
        assert sorted(path.name for path in loop.root.version("").iterdir()) == list(DAYS[-2:])

    def test_the_published_one_is_kept_however_old(self, loop):
        loop.run(DAYS[0])
        for day in DAYS[1:]:
            loop.run(day, FakeCommands({day: 0.1}), keep=1)
        assert loop.root.days() == [DAYS[0], DAYS[-1]]
        assert loop.published() == DAYS[0]

    def test_one_that_was_half_removed_is_removed(self, loop):
        loop.run(DAYS[0])
        left = loop.root.version(f".removed-{DAYS[2]}")
        (left / "run").mkdir(parents=True)
        loop.run(DAYS[0])
        assert not left.exists()

    def test_a_day_goes_on_from_the_one_that_a_person_went_back_to(self, loop):
        for day in DAYS[:3]:
            loop.run(day)
        link = loop.root.path / "current"
        link.unlink()
        link.symlink_to(f"versions/{DAYS[1]}/bundle")
        line, _ = loop.run(DAYS[3])
        assert (line["base"], loop.published()) == (DAYS[1], DAYS[3])

    def test_a_missed_day_is_trained_on(self, loop):
        loop.run(DAYS[0])
        line, _ = loop.run(DAYS[4], windows=Windows(2))
        assert (line["base"], line["since"]) == (DAYS[0], DAYS[0])

    def test_the_first_window_bounds_what_the_first_is_trained_on(self, loop):
        line, _ = loop.run(DAYS[0], windows=Windows(2, first_days=5))
        assert line["since"] == "2022-01-16"
