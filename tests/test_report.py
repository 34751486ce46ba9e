"""Reports: verdicts, tables, reading of run directories, figures, and what importing them pulls in."""

import csv
import hashlib
import io
import json
import math
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marl_bench.report import figures, tables
from marl_bench.report.results import load_cells, load_metrics, load_results
from marl_bench.report.statistics import Interval
from marl_bench.report.verdicts import Verdict, decide, judge, unmeasured, verdict_table

FAST = settings(max_examples=60, deadline=None)


def test_imports_stay_light():
    code = (
        "import sys, marl_bench; assert not {'pandas', 'matplotlib', 'jax'} & set(sys.modules);"
        "assert not any(m.startswith('marl_bench.report') for m in sys.modules);"
        "from marl_bench.report import boundary, figures, results, statistics, tables, verdicts;"
        "assert not {'jax', 'flax', 'wandb', 'jumanji', 'matplotlib.pyplot', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- verdicts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "expected", "practical", "outcome"),
    [
        ((0.3, 0.1, 0.5), "positive", 0.0, "holds"),
        ((0.3, -0.1, 0.5), "positive", 0.0, "undecided"),
        ((-0.3, -0.5, -0.1), "positive", 0.0, "fails"),
        ((0.3, 0.1, 0.5), "positive", 0.2, "undecided"),  # larger than 0, perhaps not than what matters
        ((0.1, 0.05, 0.15), "positive", 0.2, "fails"),  # certainly smaller than what matters
        ((-0.1, -0.9, 0.15), "positive", 0.2, "fails"),
        ((0.2, 0.2, 0.2), "positive", 0.2, "fails"),  # the margin itself counts as none
        ((0.0, 0.0, 0.0), "positive", 0.0, "undecided"),  # no margin stated: no equivalence to fail on
        ((0.0, 0.0, 0.1), "positive", 0.0, "undecided"),
        ((-0.3, -0.5, -0.1), "negative", 0.0, "holds"),
        ((0.3, 0.1, 0.5), "negative", 0.0, "fails"),
        ((-0.1, -0.15, 0.4), "negative", 0.2, "fails"),
        ((-0.3, -0.5, -0.1), "different", 0.0, "holds"),
        ((0.1, -0.1, 0.2), "different", 0.0, "undecided"),
        ((0.0, -0.1, 0.1), "different", 0.2, "fails"),
        ((0.0, -0.1, 0.1), "equivalent", 0.2, "holds"),
        ((0.5, 0.3, 0.6), "equivalent", 0.2, "fails"),
        ((0.2, 0.1, 0.3), "equivalent", 0.2, "undecided"),
        ((0.3, math.nan, math.nan), "positive", 0.0, "undecided"),  # a single seed
        ((math.nan, math.nan, math.nan), "negative", 0.0, "undecided"),
    ],
)
def test_decide(interval, expected, practical, outcome):
    assert decide(*interval, expected=expected, practical=practical) == outcome


@FAST
@given(
    st.lists(st.floats(-1, 1), min_size=3, max_size=3).map(sorted),
    st.floats(0.001, 0.5),
    st.sampled_from(["positive", "different"]),
)
def test_decide_is_symmetric_and_never_contradicts_itself(ends, practical, expected):
    low, estimate, high = ends
    mirrored = {"positive": "negative", "different": "different"}[expected]
    outcome = decide(estimate, low, high, expected=expected, practical=practical)
    assert decide(-estimate, -high, -low, expected=mirrored, practical=practical) == outcome
    if outcome == "holds":
        opposite = {"positive": "negative", "different": "equivalent"}[expected]
        assert decide(estimate, low, high, expected=opposite, practical=practical) == "fails"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"expected": "postive"}, "did you mean 'positive'"),
        ({"expected": "positive", "practical": -0.1}, "practical=-0.1"),
        ({"expected": "equivalent"}, "equivalence needs"),
        ({"expected": "positive", "estimate": 2.0}, "outside its interval"),
    ],
)
def test_decide_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        decide(**{"estimate": 0.1, "low": 0.0, "high": 0.2, **arguments})


def make_verdict(n=15, **changes):
    fields = {
        "claim": "X1",
        "statement": "cooperation falls with B",
        "effect": "slope of cooperation on B",
        "expected": "negative",
        "practical": 0.1,
        "unit": "per B",
        "source": "abstract",
    }
    return judge(Interval(-1.5, -1.8, -1.2, n), **(fields | changes))


def test_judge_carries_effect_and_margin():
    verdict = make_verdict(note="seeds 0-14")
    assert (verdict.outcome, verdict.estimate, verdict.low, verdict.high) == ("holds", -1.5, -1.8, -1.2)
    assert (verdict.n, verdict.note) == (15, "seeds 0-14; margin 0.1 per B")


def test_verdict_is_frozen_checked_and_storable():
    verdict = unmeasured("X9", "size does not matter", note="not run at this scale")
    assert json.loads(json.dumps(verdict.record(), allow_nan=False))["estimate"] is None
    with pytest.raises(AttributeError):
        verdict.outcome = "holds"  # type: ignore[misc]
    with pytest.raises(ValueError, match="must be one of holds, fails, undecided"):
        Verdict("X", "s", "hold", "e")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is above high"):
        Verdict("X", "s", "holds", "e", 0.0, 1.0, -1.0)


def test_verdict_table_marks_few_seeds_but_not_the_unmeasured():
    table = verdict_table([make_verdict(), make_verdict(n=4), unmeasured("X9", "s", note="n")])
    text = table.to_markdown()
    assert [line[0] for line in table.text()] == ["X1", "X1 †", "X9"]
    assert "-1.5 \\[-1.8, -1.2\\]" in text
    assert text.count("†") == 2  # the row and the footnote


# --- tables -------------------------------------------------------------------------------------


NASTY = "a|b<script>[red]\x1b[31m\n*x* `c` \\"


def nasty_table():
    columns = (tables.Column(NASTY), tables.Column("rate", "%", ".2f"), tables.Column("n", "", "d"))
    rows = ((NASTY, Interval(0.5, 0.25, 0.75, 3), 3), ("=1+1", math.nan, None))
    return tables.Table(NASTY, columns, rows, frozenset({0}), ("note | 1",))


def test_markdown_is_escaped_and_rectangular():
    text = nasty_table().to_markdown()
    assert "<script>" not in text and "\x1b" not in text and "&lt;script&gt;" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    bars = [line.replace("\\\\", "").replace("\\|", "").count("|") for line in lines]
    assert bars == [4, 4, 4, 4]
    assert "| 0.50 \\[0.25, 0.75\\] | 3 |" in text
    assert "| – | – |" in text
    assert tables.FOOTNOTE in text and "note \\| 1" in text


def test_markdown_of_a_plain_table_by_hand():
    table = tables.Table("T", (tables.Column("name"), tables.Column("x", "m", ".1f")), (("a", 1.25), ("b", -0.01)))
    assert table.to_markdown() == "**T**\n\n| name | x (m) |\n| :--- | ---: |\n| a | 1.2 |\n| b | 0.0 |\n"


def test_csv_has_full_precision_interval_ends_and_no_formulas():
    rows = list(csv.reader(io.StringIO(nasty_table().to_csv())))
    assert rows[0][1:] == ["rate (%)", "rate_low (%)", "rate_high (%)", "n"]
    assert rows[1][1:] == ["0.5", "0.25", "0.75", "3"]
    assert rows[2] == ["'=1+1", "", "", "", ""]
    third = tables.Table("T", (tables.Column("x"),), ((np.float64(1) / 3,),)).to_csv()
    assert float(third.splitlines()[1]) == 1 / 3


def test_rich_shows_text_literally():
    from rich.console import Console

    console = Console(file=io.StringIO(), width=200, color_system=None)
    console.print(nasty_table().to_rich())
    output = console.file.getvalue()
    assert "[red]" in output and "\x1b" not in output
    assert "0.50 [0.25, 0.75]" in output and "†" in output


def test_numbers_are_readable():
    cells = (100_000, np.int64(7), 0.1234567, math.inf, True, -0.0001, None, "x")
    table = tables.Table("T", tuple(tables.Column(str(i)) for i in range(len(cells))), (cells,))
    assert table.text()[0] == ["100000", "7", "0.1235", "∞", "yes", "-0.0001", tables.MISSING, "x"]


def test_table_refuses_ragged_rows():
    with pytest.raises(ValueError, match="row 1 of table 'T' has 2 cells for 1 columns"):
        tables.Table("T", (tables.Column("a"),), ((1,), (1, 2)))


@pytest.fixture
def outcomes():
    return pd.DataFrame(
        {
            "learner.initial_temperature": [0.8] * 4 + [0.1] * 6,
            "seed": [0, 1, 2, 3, 0, 1, 2, 3, 4, 5],
            "cooperation_rate": [0.0, 0.1, 0.9, np.nan, 1.0, 1.0, 1.0, 1.0, 1.0, 0.4],
        }
    )


def test_aggregate_by_hand(outcomes):
    summary = tables.aggregate(outcomes, ["learner.initial_temperature"])
    low, high = summary.to_dict("records")  # sorted by the condition
    assert (low["learner.initial_temperature"], low["n"], low["missing"]) == (0.1, 6, 0)
    assert low["mean"] == pytest.approx(0.9)
    assert low["collapsed"] == pytest.approx(1 / 6)
    assert (high["n"], high["missing"]) == (3, 1)
    # mean 1/3, squared deviations sum 0.4867, sd 0.4933
    assert high["mean"] == pytest.approx(1 / 3)
    assert high["high"] - high["mean"] == pytest.approx(1.96 * np.std([0.0, 0.1, 0.9], ddof=1) / np.sqrt(3))
    assert high["collapsed"] == pytest.approx(2 / 3)


def test_aggregate_keeps_conditions_without_any_outcome():
    frame = pd.DataFrame({"a": ["x", "x"], "b": [1, 2], "cooperation_rate": [np.nan, 0.5]})
    first, second = tables.aggregate(frame, ["a", "b"]).to_dict("records")
    assert (first["n"], first["missing"]) == (0, 1) and math.isnan(first["mean"])
    assert second["mean"] == 0.5 and math.isnan(second["low"])


def test_aggregate_table_marks_few_seeds(outcomes):
    names = {"learner.initial_temperature": "payoff"}
    table = tables.aggregate_table(outcomes, ["learner.initial_temperature"], title="T", units=names)
    assert table.columns[0].heading == "learner.initial_temperature (payoff)"
    assert [line[0] for line in table.text()] == ["0.1", "0.8 †"]
    assert table.text()[0][1].startswith("0.900 [")


def test_aggregate_names_the_nearest_column(outcomes):
    with pytest.raises(LookupError, match="no column 'cooperation'; did you mean 'cooperation_rate'"):
        tables.aggregate(outcomes, ["seed"], "cooperation")
    with pytest.raises(ValueError, match="by is empty"):
        tables.aggregate(outcomes, [])


# --- results ------------------------------------------------------------------------------------


def write_parquet(path, frame):
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pandas(frame), path, write_page_checksum=True, compression="none")


def metric_part(first, **columns):
    rows = np.arange(first, first + 50)
    keys = {"cell": rows % 2, "env_steps": rows * 4, "agent_steps": rows * 8, "updates": rows}
    return pd.DataFrame(keys | columns)


@pytest.fixture
def run_dir(tmp_path):
    write_parquet(tmp_path / "results.parquet", pd.DataFrame({"seed": [0, 1], "cooperation_rate": [0.25, 0.75]}))
    write_parquet(tmp_path / "cells.parquet", pd.DataFrame({"seed": [0, 1]}))
    for number, start in ((0, 0), (1, 50), (2, 100)):
        part = metric_part(start, loss=np.arange(50.0) + start)
        write_parquet(tmp_path / "metrics" / f"part-{number:05d}.parquet", part)
    return tmp_path


def test_load_what_was_written(run_dir):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_results(run_dir)["cooperation_rate"].tolist() == [0.25, 0.75]
        assert load_cells(str(run_dir))["seed"].tolist() == [0, 1]
        metrics = load_metrics(run_dir)
    np.testing.assert_array_equal(metrics["updates"], np.arange(150))
    assert list(load_metrics(run_dir, ["loss"])) == ["cell", "env_steps", "agent_steps", "updates", "loss"]


def test_parts_are_ordered_by_number_and_foreign_files_ignored(run_dir):
    folder = run_dir / "metrics"
    (folder / "part-00002.parquet").rename(folder / "part-2.parquet")
    for number in range(3, 11):
        write_parquet(folder / f"part-{number}.parquet", metric_part(50 * number))
    (folder / ".part-00011.parquet.tmp").write_bytes(b"half")
    (folder / "notes.txt").write_text("x")
    np.testing.assert_array_equal(load_metrics(run_dir)["updates"], np.arange(550))


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[60] ^= 0xFF  # inside the first column's page
    path.write_bytes(bytes(data))


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    "damage", [flip_a_byte, cut, lambda path: path.write_bytes(b""), lambda p: p.write_bytes(b"x" * 99)]
)
def test_damaged_part_is_skipped_and_named(run_dir, damage):
    damage(run_dir / "metrics" / "part-00001.parquet")
    with pytest.warns(RuntimeWarning, match=r"part-00001\.parquet is damaged and skipped"):
        metrics = load_metrics(run_dir)
    np.testing.assert_array_equal(metrics["updates"], [*range(50), *range(100, 150)])


def test_missing_part_is_named(run_dir):
    (run_dir / "metrics" / "part-00001.parquet").unlink()
    with pytest.warns(RuntimeWarning, match=r"lacks the parts \[1\]"):
        assert len(load_metrics(run_dir)) == 100


def test_parts_of_several_packs_may_differ(run_dir):
    write_parquet(run_dir / "metrics" / "part-1000000.parquet", metric_part(150, q_gap=1.0))
    metrics = load_metrics(run_dir, ["q_gap", "loss"])
    assert metrics["q_gap"].isna().sum() == 150 and metrics["loss"].isna().sum() == 50


def test_metrics_errors(run_dir, tmp_path_factory):
    with pytest.raises(LookupError, match="no metric 'los'; did you mean 'loss'"):
        load_metrics(run_dir, ["los"])
    for number in range(3):
        cut(run_dir / "metrics" / f"part-{number:05d}.parquet")
    with pytest.warns(RuntimeWarning), pytest.raises(OSError, match="no part in"):
        load_metrics(run_dir)
    write_parquet(run_dir / "metrics" / "part-00000.parquet", pd.DataFrame({"cell": [1]}))
    with pytest.raises(ValueError, match="lacks the columns env_steps, agent_steps, updates"):
        load_metrics(run_dir)
    with pytest.raises(FileNotFoundError, match="has logged nothing yet"):
        load_metrics(tmp_path_factory.mktemp("empty"))


def test_results_errors(run_dir):
    with pytest.raises(FileNotFoundError, match="does not exist; check the path"):
        load_results(run_dir / "nowhere")
    with pytest.raises(NotADirectoryError, match="is a file"):
        load_results(run_dir / "results.parquet")
    cut(run_dir / "results.parquet")
    with pytest.raises(OSError, match=r"results\.parquet cannot be read"):
        load_results(run_dir)
    (run_dir / "results.parquet").unlink()
    with pytest.raises(FileNotFoundError, match="the run has not finished"):
        load_results(run_dir)


def test_results_are_compared_with_the_recorded_digest(run_dir):
    digest = hashlib.sha256((run_dir / "results.parquet").read_bytes()).hexdigest()
    (run_dir / "summary.json").write_text(json.dumps({"results_sha256": digest}))
    assert len(load_results(run_dir)) == 2
    write_parquet(run_dir / "results.parquet", pd.DataFrame({"seed": [0, 1], "cooperation_rate": [1.0, 1.0]}))
    with pytest.raises(OSError, match=r"is not the file that summary\.json records"):
        load_results(run_dir)
    (run_dir / "summary.json").write_text("{half")
    with pytest.warns(RuntimeWarning, match="results are not verified"):
        load_results(run_dir)


# --- figures ------------------------------------------------------------------------------------


def draw_heat_map(**changes):
    fields = {"title": "t", "x_title": "B", "y_title": "$D_r$", "value_title": "Cooperation"}
    return figures.heat_map([0.1, 0.2], [0.3, 0.35, 0.4], [[1, 0], [0.5, 0.25], [np.nan, 1]], **(fields | changes))


def draw_all():
    names = {"title": "A long title " * 12, "x_title": "x", "y_title": "y"}
    label = "$ unbalanced _ | <b> " + "long " * 40
    curve = figures.Curve(label, [0, 1], [0.2, 0.4], [0.1, np.nan], [0.3, np.nan], [[0.1, 0.3], [0.4]])
    return {
        "heat": draw_heat_map(second=np.zeros((3, 2))),
        "large": figures.heat_map(
            range(40), [f"c{i}" for i in range(40)], np.eye(40), value_title="v", limits=None, **names
        ),
        "curves": figures.curves_with_bands([curve] * 9, y_limits=(0, 1), **names),
        "training": figures.training_curves([figures.Runs(label, [0, 10], np.ones((3, 2)))], title="t", y_title="y"),
        "boundary": figures.boundary_plot(
            [figures.BoundaryCurve(label, [0, 1, 2], [0.4, 0.2, 0.1], ["right-censored", "interior", "left-censored"])],
            title="t",
        ),
        "strip": figures.strip_plot([figures.Outcomes("a", [0.1, 1.0, np.nan]), figures.Outcomes("b", [])], **names),
    }


def test_figures_are_saved_without_a_layout_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, figure in draw_all().items():
            svg, png = figures.save_figure(figure, tmp_path / "a" / "b", name)
            assert svg.read_bytes().startswith(b"<?xml") and png.read_bytes().startswith(b"\x89PNG")
    assert sorted(path.suffix for path in (tmp_path / "a" / "b").iterdir()) == [".png"] * 6 + [".svg"] * 6


def test_equal_figures_are_equal_files(tmp_path):
    first, second = (figures.save_figure(draw_heat_map(), tmp_path / folder, "x") for folder in ("a", "b"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_heat_map_annotates_few_cells_only():
    axes = draw_heat_map().axes[0]
    assert texts(axes) == ["1.00", "0.00", "0.50", "0.25", "1.00"]  # the missing one stays empty
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0.30", "0.35", "0.40"]
    assert axes.images[0].origin == "lower" and axes.images[0].get_clim() == (0.0, 1.0)
    large = draw_all()["large"].axes[0]
    assert texts(large) == [] and len(large.get_xticks()) <= 16


def test_boundary_plot_marks_censored_points():
    axes = draw_all()["boundary"].axes[0]
    points = {line.get_marker(): line for line in axes.lines if line.get_linestyle() == "None"}
    assert points["o"].get_xdata().tolist() == [1.0]
    assert points["^"].get_ydata().tolist() == [0.4] and points["^"].get_markerfacecolor() == "white"
    assert points["v"].get_ydata().tolist() == [0.1]


def test_strip_plot_counts_collapsed_seeds():
    axes = figures.strip_plot(
        [figures.Outcomes("a", [0.1, 0.2, 0.3, 0.9, 1.0]), figures.Outcomes("b", [0.5, np.nan])],
        title="t",
        x_title="x",
        y_title="y",
    ).axes[0]
    assert texts(axes) == ["3/5", "0/1†"]
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [0.1, 0.2, 0.3, 0.9, 1.0])
    assert np.all(np.abs(axes.lines[0].get_xdata()) < 0.5)


def test_training_curves_draw_mean_and_every_seed():
    values = [[0.0, 1.0], [1.0, 1.0], [0.5, 1.0]]
    axes = figures.training_curves([figures.Runs("a", [0, 10], values)], title="t", y_title="y").axes[0]
    np.testing.assert_allclose([line.get_ydata() for line in axes.lines], [*values, [0.5, 1.0]])
    assert axes.get_legend().get_texts()[0].get_text() == "a (3 seeds†)"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: draw_heat_map(second=np.zeros((2, 2))), r"shape \(2, 2\), the labels ask for \(3, 2\)"),
        (
            lambda: figures.curves_with_bands(
                [figures.Curve("a", [0, 1], [0], [0], [0])], title="t", x_title="x", y_title="y"
            ),
            "columns of one length",
        ),
        (lambda: figures.training_curves([figures.Runs("a", [0], np.ones((2, 2)))], title="t", y_title="y"), "run 'a'"),
        (
            lambda: figures.boundary_plot([figures.BoundaryCurve("a", [0], [1], ["open"])], title="t"),
            "status must hold",
        ),
        (lambda: figures.save_figure(draw_heat_map(), ".", "../x"), "figure name"),
    ],
)
def test_figures_refuse_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
