"""What is not published, and what is not even begun; each says why."""

import datetime

import numpy as np
import pytest

from interactrank_jax.daily.plan import Bounds, Plan, Windows, choose_day
from interactrank_jax.daily.root import Root
from interactrank_jax.io import files, outputs
from interactrank_jax.io.errors import InputError
from tests.daily.conftest import DAYS, FIRST, Loop
from tests.daily.fake_commands import UNDEFINED, FakeCommands, Killed


class TestRefusal:
    def test_of_a_model_that_falls(self, loop):
        loop.run(DAYS[0])
        line, commands = loop.run(DAYS[1], FakeCommands({DAYS[1]: 0.68}))
        assert line["outcome"] == "refused"
        assert line["reasons"] == [
            "roc_auc on the 30 held-out requests of 2022-01-21 is 0.6800, that of the published "
            "model (2022-01-20) 0.7000: worse by 0.0200, bound 0.01 (95% interval of the "
            "difference -0.0300 to -0.0100)"
        ]
        assert "export" not in commands.names
        assert loop.published() == DAYS[0]
        assert loop.root.history()[DAYS[1]] == line

    @pytest.mark.parametrize(("value", "outcome"), [(0.69, "published"), (0.689, "refused")])
    def test_the_bound_itself_is_kept(self, loop, value, outcome):
        loop.run(DAYS[0])
        line, _ = loop.run(
            DAYS[1], FakeCommands({DAYS[1]: value}), bounds=Bounds(0.010001, 0.25, 0.1, 7)
        )
        assert line["outcome"] == outcome

    @pytest.mark.parametrize(("value", "outcome"), [(0.65, "published"), (0.75, "refused")])
    def test_of_a_metric_of_which_less_is_better(self, loop, value, outcome):
        fields = {"train.select_by": "logloss"}
        loop.run(DAYS[0], FakeCommands(metric="logloss"), fields=fields)
        commands = FakeCommands({DAYS[1]: value}, metric="logloss")
        line, _ = loop.run(DAYS[1], commands, fields=fields)
        assert line["outcome"] == outcome

    def test_of_a_metric_that_is_not_defined(self, loop):
        line, _ = loop.run(DAYS[0], FakeCommands({DAYS[0]: UNDEFINED}))
        assert line["reasons"] == [
            "roc_auc is not defined on the 30 held-out requests of 2022-01-20"
        ]
        assert not (loop.root.path / "current").exists()
        line, commands = loop.run(DAYS[1])  # there is still nothing to go on from
        assert (line["outcome"], line["base"], commands.names) == ("published", "", FIRST)

    def test_of_features_that_drift(self, loop):
        loop.run(DAYS[0])
        line, commands = loop.run(DAYS[1], FakeCommands(drift={DAYS[1]}))
        assert line["reasons"] == ["drift: share: PSI 0.3"]
        assert line["drift"]["psi"] == 0.3
        assert "export" not in commands.names
        assert loop.published() == DAYS[0]

    def test_the_next_day_goes_on_from_what_is_published(self, loop):
        loop.run(DAYS[0])
        loop.run(DAYS[1], FakeCommands({DAYS[1]: 0.5}), windows=Windows(2))
        line, _ = loop.run(DAYS[2], windows=Windows(2))
        assert (line["outcome"], line["base"], loop.published()) == ("published", DAYS[0], DAYS[2])
        assert line["since"] == DAYS[0]  # what was refused is trained on, beyond the window

    def test_under_other_bounds_it_is_judged_again_without_training(self, loop):
        loop.run(DAYS[0])
        drifting = {"drift": {DAYS[1]}}
        loop.run(DAYS[1], FakeCommands(**drifting))
        line, commands = loop.run(DAYS[1], FakeCommands(**drifting))
        assert (line["outcome"], commands.calls) == ("refused", [])
        loose = Bounds(0.01, 0.5, 0.1, 7)
        # Killed before its first command, it is judged by them all the same.
        with pytest.raises(Killed):
            loop.run(DAYS[1], FakeCommands(**drifting, kill=(1, "before")), bounds=loose)
        line, commands = loop.run(DAYS[1], FakeCommands(**drifting), bounds=loose)
        assert commands.names == ["state report", "export"]
        assert line["outcome"] == "published"
        assert line["bounds"] == vars(loose)
        assert list(loop.root.history()) == [*DAYS[:2]]
        assert loop.published() == DAYS[1]


class TestBadInput:
    DAYS_OF_LOG = np.array([19_000, 19_001, 19_003])
    TODAY = 20_000

    def test_a_day(self):
        days, today = self.DAYS_OF_LOG, self.TODAY
        assert choose_day(days, "", today) == "2022-01-09"
        assert choose_day(days, "2022-01-11", today) == "2022-01-11"  # over, by the clock
        for asked, message in (
            ("2022-01-10", "requests of 2022-01-08 to 2022-01-11, but none of that day"),
            ("2024-10-04", "is not over: it is 2024-10-04 in UTC"),
            ("2024-13-01", "is no date"),
        ):
            with pytest.raises(InputError, match=message):
                choose_day(days, asked, today)
        # One clock runs ahead: no day that is not over is taken for complete.
        assert choose_day(np.append(days, 30_000), "", 19_003) == "2022-01-09"
        with pytest.raises(InputError, match="no day is known to be complete"):
            choose_day(days[:1], "", today)
        with pytest.raises(InputError, match="the log has no request"):
            choose_day(days[:0], "", today)

    def test_the_newest_complete_day_is_the_default(self, loop):
        line, _ = loop.run("")
        assert line["day"] == "2022-02-05"  # the log has requests of the 6th

    def test_a_day_of_the_future(self, loop):
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        with pytest.raises(InputError, match="is not over"):
            loop.run(today)
        with pytest.raises(InputError, match="none of that day"):
            loop.run("2021-12-31")

    def test_two_at_once(self, loop):
        with (
            outputs.lock(loop.root.path),
            pytest.raises(InputError, match="in use by another process"),
        ):
            loop.run(DAYS[0])
        assert not loop.root.days()

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"data.protocol": "clean_random"}, "protocol is 'clean_random', which has no days"),
            ({"train.warm_start": "runs/x"}, "warm_start is 'runs/x', but each day"),
        ],
    )
    def test_a_config(self, loop, fields, message):
        with pytest.raises(InputError, match=message):
            loop.run(DAYS[0], fields=fields)

    def test_a_root_of_something_else(self, loop, log):
        loop.root.path.mkdir()
        (loop.root.path / "thesis.tex").touch()
        with pytest.raises(InputError, match=r"holds 'thesis\.tex', which is none"):
            loop.run(DAYS[0])
        with pytest.raises(InputError, match="one is inside the other"):
            Loop(Root(log / "root"), log).run(DAYS[0])
        file = loop.root.path / "thesis.tex"
        with pytest.raises(InputError, match="is a file"):
            Loop(Root(file), log).run(DAYS[0])

    @pytest.mark.parametrize("target", ["versions/2022-01-19/bundle", "..", "state"])
    def test_a_current_that_is_no_version(self, loop, target):
        loop.run(DAYS[0])
        link = loop.root.path / "current"
        link.unlink()
        link.symlink_to(target)
        with pytest.raises(InputError, match="current is no link to versions/DATE/bundle"):
            loop.run(DAYS[1])

    def test_a_history_that_was_edited(self, loop):
        loop.run(DAYS[0])
        (loop.root.path / "history.jsonl").write_text("published\n")
        with pytest.raises(InputError, match="is no history"):
            loop.run(DAYS[1])

    def test_a_plan_that_was_edited(self, loop):
        loop.run(DAYS[0])
        file = loop.root.version(DAYS[0]) / "plan.json"
        files.write_json(file, {"day": DAYS[0]})
        with pytest.raises(InputError, match="is no plan of a day"):
            Plan.read(file)

    def test_windows_and_versions(self, loop):
        with pytest.raises(InputError, match=r"--window=1\. Expected at least 2"):
            Windows(1)
        with pytest.raises(InputError, match=r"--first_window=1\. Expected at least 2"):
            Windows(2, 1)
        with pytest.raises(InputError, match="--keep=0"):
            loop.run(DAYS[0], keep=0)
