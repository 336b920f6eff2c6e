"""The report: one file that says what is known, escapes what users wrote, and draws what can be drawn."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from manykin.errors import CheckpointMismatch, InvalidInput
from manykin.metrics import Estimate, Evaluation
from manykin.report import reading, write_report
from manykin.report.canvas import png, style, svg
from manykin.report.columns import Block, Mark, standings
from manykin.report.curves import curves, learning_curves
from manykin.report.pictures import density_2d, ellipses, frame, full_covariances, grid, samples_sheet
from manykin.report.units import arrow_of, bytes_text, count_text, seconds_text, title_of
from manykin.spaces import Image, Record, Table, Vector, columns_of
from report_folders import (
    NASTY,
    PictureMeans,
    Rings,
    digits,
    distances,
    estimates,
    history,
    row,
    write_comparison,
    write_evaluation,
    write_neighbours,
    write_plane,
    write_run,
    write_table,
    write_text,
)

VOID = {"meta", "img", "br", "link", "input", "path", "use", "rect", "stop", "image"}


class Page(HTMLParser):
    """What a browser would see: tags, text of table rows, balanced or not."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append("")
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.stack.pop() == tag

    def handle_data(self, data):
        if self.stack and self.stack[-1] in ("style", "script"):
            return
        self.text += data + " "
        if "tr" in self.stack:
            self.rows[-1] += data + " "

    def row(self, name: str) -> str:
        return next(re.sub(r"\s+", " ", text) for text in self.rows if text.strip().startswith(name))


@pytest.fixture
def without_models(monkeypatch):
    monkeypatch.setattr(reading, "_model", lambda folder: (None, ""))


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    def load(folder: Path):
        return (PictureMeans(None, Image((1, 8, 8), 17)), "") if folder.name == "mixture" else (None, "")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_model", load)
        return write_report(write_comparison(tmp_path_factory.mktemp("report") / "compared"))


def test_a_comparison_becomes_one_file_that_asks_no_network(comparison):
    text = comparison.read_text()
    assert comparison.name == "report.html"
    assert sorted(path.name for path in comparison.parent.glob("*report*")) == ["report.html", "report.md"]
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "srcset", "action", "data"):
                assert value is not None
                assert value.startswith(("data:image/png;base64,", "data:image/gif;base64,", "#")), (tag, name, value[:60])
    assert not re.search(r"https?://", re.sub(r"base64,[A-Za-z0-9+/=\s]*", "", text))
    assert "@import" not in text
    assert not re.search(r"url\((?!#|\"#|'#)", text)


def test_a_comparison_shows_every_model_with_strength_error_floor_and_cost(comparison):
    page = Page(comparison.read_text())
    mixture = page.row("mixture")
    assert "floor" in mixture
    assert "2.146 ± 0.010 bits/dim exact" in mixture
    assert "0.080 ± 0.020" in mixture
    assert "3.2 s 5,120 12,345 456 MB" in mixture
    vae = page.row("vae")
    assert "bound" in vae
    assert "k=64" in vae
    assert "floor" not in vae
    assert "as good as real" not in vae
    assert "as good as real" in page.row("class-mixture")
    assert "-0.001 ± 0.015" in page.row("real data")
    assert "none" in page.row("gan")
    box = page.row("box")
    assert "not finite" in box
    assert "2 of 360 rows outside the support" in box
    assert "singular matrix" in page.row("kde")


def test_unlike_likelihoods_stand_in_groups_of_their_own(comparison):
    text = comparison.read_text()
    table = text[text.index('<table id="results"') :]
    bodies = re.findall(r"<tbody.*?</tbody>", table[: table.index("</table>")], flags=re.DOTALL)[1:]
    members = [re.findall(r'<th scope="row" data-key="([^"]*)"', body) for body in bodies]
    assert members == [
        ["mixture", "independent", "box"], ["vae", "gaussian-mixture", "realnvp"], ["class-mixture"], ["gan"], ["kde"],
    ]  # fmt: skip
    assert "Bound on log p(x)" in bodies[1]
    assert "log p(x | c)" in bodies[2]
    assert "Failed" in bodies[4]
    assert "The best classical model is mixture at 2.146" in text


def test_what_users_wrote_is_escaped_everywhere(tmp_path, without_models, comparison):
    for path in (write_report(write_table(tmp_path / "table")), write_report(write_text(tmp_path / "text")), comparison):
        text = path.read_text()
        assert NASTY not in text
        assert text.count("<script>") == 1
    assert "&lt;script&gt;" in (tmp_path / "table" / "report.html").read_text()


def test_names_and_errors_that_are_markup_are_escaped(tmp_path, without_models):
    folder = tmp_path / "c"
    folder.mkdir()
    rows = [row(NASTY, estimates(1.0)), row('"><img src=x onerror=alert(1)>', (), error="<b>no</b>")]
    (folder / "compare.json").write_text(json.dumps(rows))
    text = write_report(folder).read_text()
    assert NASTY not in text
    assert "<img src=x" not in text
    assert "<b>no</b>" not in text


def test_a_run_in_the_plane_shows_data_density_samples_and_components(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "_model", lambda folder: (Rings(None, Vector(2)), ""))
    text = write_report(write_plane(tmp_path / "run")).read_text()
    page = Page(text)
    figures = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"]
    assert figures == [
        "Real data", "gaussian-mixture: density with the data on top", "gaussian-mixture: samples", "Components of run", "Learning curves of run",
    ]  # fmt: skip
    assert "currentColor" in text
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    assert "2.900 ± 0.040" in page.row("negative log-likelihood")
    assert "gap to the known entropy" in page.text
    for fact in ("CC BY 4.0", "ab" * 32, "2.13", "dequantise"):
        assert fact in page.text
    assert "Lower is better" in page.text


def test_pictures_are_embedded_and_crisp(comparison):
    page = Page(comparison.read_text())
    sheets = [attributes for tag, attributes in page.tags if tag == "img"]
    assert [sheet["alt"] for sheet in sheets][:2] == ["Real data", "Samples of mixture"]
    assert "Means of the components, heaviest first" in [sheet["alt"] for sheet in sheets]
    assert "pixelated" in comparison.read_text()


def test_tables_show_marginals_of_every_kind_of_column(tmp_path, without_models):
    page = Page(write_report(write_table(tmp_path / "run")).read_text())
    for expected in ("$price$ in €", "blue & green", "children", "missing 12%, sampled 12%"):
        assert expected in page.text
    assert "columns in pairs" in page.text


def test_texts_are_shown_as_strings_up_to_their_end(tmp_path, without_models):
    folder = write_text(tmp_path / "run")
    text = write_report(folder).read_text()
    strings = re.findall(r"<pre>(.*?)</pre>", text, flags=re.DOTALL)
    assert len(strings) == 16
    assert all(len(string.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")) == 9 for string in strings)


def test_records_and_sparse_folders_are_still_reported(tmp_path, without_models):
    space = Record({"v": Vector(2), "t": Table(columns_of(Vector(3)))})
    folder = write_run(tmp_path / "run", "gaussian", space, torch.zeros(1), torch.zeros(1))
    for name in ("real", "final"):
        save_file({"v": torch.randn(50, 2), "t": torch.randn(50, 3)}, folder / "samples" / f"{name}.safetensors")
    assert "v: gaussian: samples" in write_report(folder).read_text()
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text(json.dumps({"model": {"name": "nobody", "config": {}}}))
    assert "nobody" in Page(write_report(bare).read_text()).text


def test_a_model_that_cannot_be_loaded_is_said_and_the_rest_is_shown(tmp_path):
    folder = write_plane(tmp_path / "run")
    text = write_report(folder).read_text()
    assert "model.safetensors is missing" in text
    assert 'aria-label="gaussian-mixture: samples"' in text
    assert "density with the data" not in text


@pytest.mark.parametrize(
    "path, content, message",
    [
        ("config.json", "{", "config.json cannot be read"),
        ("config.json", "[]", "expected an object"),
        ("config.json", '{"space": {"space": "Torus"}}', "Torus"),
        ("evaluation.json", '{"metrics": [{"value": 1}]}', "evaluation.json is damaged"),
        ("samples/real.safetensors", "junk", "real.safetensors cannot be read"),
    ],
)
def test_damaged_folders_are_refused_naming_the_file(tmp_path, without_models, path, content, message):
    folder = write_plane(tmp_path / "run")
    (folder / path).write_text(content)
    with pytest.raises(CheckpointMismatch, match=re.escape(message)):
        write_report(folder)


def test_folders_that_are_neither_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match="holds neither"):
        write_report(tmp_path)
    with pytest.raises(InvalidInput, match="is not a folder"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "compare.json").write_text('{"model": 1}')
    with pytest.raises(CheckpointMismatch, match="list of objects"):
        write_report(tmp_path)


def test_a_model_name_cannot_lead_out_of_the_comparison(tmp_path, without_models):
    write_plane(tmp_path / "secret")
    folder = tmp_path / "c"
    folder.mkdir()
    (folder / "compare.json").write_text(json.dumps([row("../secret", estimates(1.0))]))
    assert "CC BY 4.0" not in write_report(folder).read_text()


def test_reports_may_be_written_again(tmp_path, without_models):
    folder = write_plane(tmp_path / "run")
    assert write_report(folder) == write_report(str(folder)) == folder / "report.html"


def test_drawing_leaves_matplotlib_as_it_was(tmp_path, without_models):
    import matplotlib

    before = dict(matplotlib.rcParams)
    write_report(write_plane(tmp_path / "run"))
    assert dict(matplotlib.rcParams) == before


def test_sheets_hold_every_pixel_as_a_square():
    images = digits()[:6]
    sheet = grid(images, columns=3, levels=17, side=240)
    zoom = 10
    assert sheet.size == (3 * 80 + 2 * 5, 2 * 80 + 5)
    expected = round(float(images[4, 0, 3, 2]) / 16 * 255)
    left, top = 85 + 2 * zoom, 85 + 3 * zoom
    assert {sheet.getpixel((left + dx, top + dy)) for dx in range(zoom) for dy in range(zoom)} == {(expected, expected, expected, 255)}
    assert sheet.getpixel((82, 0))[3] == 0


def test_sheets_of_colour_codes_and_real_values():
    colour = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    colour[:, 0] = 255
    assert grid(colour, side=8).getpixel((0, 0)) == (255, 0, 0, 255)
    codes = torch.tensor([[[[0, 1], [2, 3]]]], dtype=torch.uint8)
    sheet = grid(codes, levels=4, ordinal=False, side=2)
    assert len({sheet.getpixel((x, y)) for x in (0, 1) for y in (0, 1)}) == 4
    real = torch.tensor([[[[-3.0, 5.0]]]])
    assert [grid(real, levels=None, side=2).getpixel((x, 0))[0] for x in (0, 1)] == [0, 255]
    assert samples_sheet(digits()[:16], digits()[16:32], levels=17).width > 2 * 600


def test_density_contours_hold_their_share_of_probability():
    model = Rings(None, Vector(2))
    axes = density_2d(model.log_prob, model.sample(4000, seed=0), resolution=120)
    filled, lines = axes.collections[:2]
    levels = lines.levels
    assert len(levels) == 5
    fresh = model.log_prob(model.sample(4000, seed=1))
    everywhere = model.log_prob(
        torch.cartesian_prod(*(torch.linspace(float(a), float(b), 200, dtype=torch.float64) for a, b in zip(*frame(model.sample(4000, seed=0)))))
    )
    inside = [float((fresh.exp() / everywhere.exp().max() >= level).double().mean()) for level in levels]
    assert inside == pytest.approx([0.98, 0.9, 0.75, 0.5, 0.25], abs=0.04)
    assert filled is not lines


def test_densities_that_are_zero_or_constant_still_draw():
    data = torch.rand(50, 2, dtype=torch.float64)
    density_2d(lambda x: torch.full((len(x),), -math.inf), data, resolution=20)
    density_2d(lambda x: torch.zeros(len(x)), data, resolution=20)


@pytest.mark.parametrize("kind", ["full", "tied", "diag", "spherical"])
def test_ellipses_of_all_four_covariance_types_have_the_right_axes(kind):
    means = torch.tensor([[0.0, 0.0], [4.0, 1.0], [1.0, 1.0]])
    tied = torch.tensor([[2.0, 0.6], [0.6, 1.0]])
    given = {"full": tied.expand(3, 2, 2), "tied": tied, "diag": torch.tensor([[2.0, 1.0]] * 3), "spherical": torch.tensor([2.0] * 3)}[kind]
    whole = full_covariances(means, given)
    assert whole.shape == (3, 2, 2)
    axes = ellipses(means, given, weights=torch.tensor([0.2, 0.5, 0.3]))
    assert len(axes.patches) == 6
    one = axes.patches[1]
    major = max(one.width, one.height) / 4
    assert major**2 == pytest.approx(float(torch.linalg.eigvalsh(whole[0]).max()), rel=1e-6)
    angle = math.radians(one.angle)
    direction = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
    assert float(direction @ whole[0] @ direction) == pytest.approx(float(torch.linalg.eigvalsh(whole[0]).max()), rel=1e-6)


def test_square_diagonal_covariances_are_not_taken_for_tied_ones():
    means = torch.zeros(2, 2)
    assert full_covariances(means, torch.tensor([[1.0, 2.0], [3.0, 4.0]]))[1].tolist() == [[3.0, 0.0], [0.0, 4.0]]
    tied = torch.tensor([[1.0, 0.5], [0.5, 4.0]])
    assert full_covariances(means, tied)[1].tolist() == tied.tolist()


def test_learning_curves_take_any_log():
    assert learning_curves([]) is None
    assert learning_curves([{"step": 1, "loss": 2.0}]) is None
    nested = [
        {"step": i, "seconds": i / 10, "phase": "generator", "loss": 1.0 / (i + 1), "extra": {"a": i}, "text": "no", "flag": True} for i in range(5)
    ]
    assert set(curves(nested)) == {"generator/loss", "generator/extra/a"}
    assert set(curves(history())) == {"loss", "lr", "val_loss"}
    assert set(curves([{"step": 1, "loss": math.nan}, {"step": 2, "loss": 1.0}, {"step": 3, "loss": 2.0}])) == {"loss"}
    figure = learning_curves(history(2000))
    assert figure is not None
    assert [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")] == ["loss", "lr"]


def test_standings_keep_far_values_at_the_edge():
    marks = [Mark("a", 1.0, 0.1, "exact"), Mark("b", 1.2, 0.1, "bound"), Mark("c", 1.3, None, "estimate"), Mark("d", 900.0, 10.0, "exact")]
    axes = standings([Block("one", tuple(marks), 1.15, 0.05)], "nats", floor=1.1, floor_label="floor").axes[0]
    assert axes.get_xlim()[1] < 10
    assert any("900 →" in text.get_text() for text in axes.texts)
    assert standings([Block("one", tuple(marks))], "share", clip=False).axes[0].get_xlim()[1] > 900


def test_standings_draw_blocks_apart_each_in_its_own_order_with_its_own_floor():
    blocks = [Block("Exact", (Mark("a", 3.0, 0.1, "exact"), Mark("b", 4.0, 0.1, "exact")), 2.0, 0.1), Block("Bound", (Mark("c", 1.0, 0.1, "bound"),))]
    axes = standings(blocks, "nats", floor_label="real data").axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b", "c"]
    places = axes.get_yticks()
    assert places[2] - places[1] > 2 * (places[1] - places[0])
    assert [text.get_text() for text in axes.texts if text.get_text() in ("Exact", "Bound")] == ["Exact", "Bound"]
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert len(dashed) == 1
    assert max(dashed[0].get_ydata()) < places[2] - 1


def test_svg_takes_its_colour_from_the_page_and_png_needs_no_page(tmp_path):
    with style():
        text = svg(density_2d(lambda x: -(x**2).sum(1), torch.randn(30, 2, dtype=torch.float64), resolution=20).figure, 'a "label" & more')
    assert text.startswith('<svg class="figure" role="img" aria-label="a &#34;label&#34; &amp; more"')
    assert "currentColor" in text
    assert "DejaVu" not in text
    with style(page=False):
        data = png(ellipses(torch.zeros(1, 2), torch.ones(1)).figure, tmp_path / "x.png")
    assert data[:4] == b"\x89PNG"
    assert (tmp_path / "x.png").read_bytes() == data


def test_costs_in_words():
    assert [seconds_text(value) for value in (None, 0.314, 12.34, 245.0, 7810.0)] == ["–", "0.31 s", "12.3 s", "4 min 05 s", "2 h 10 min"]
    assert [count_text(value) for value in (None, 0.5, 812, 12_345, 1_234_567)] == ["–", "0.5", "812", "12,345", "1.23 M"]
    assert [bytes_text(value) for value in (None, 12, 812_000, 1_230_000_000)] == ["–", "12 B", "812 KB", "1.23 GB"]


def test_a_comparison_whose_models_all_failed_is_reported(tmp_path, without_models):
    folder = tmp_path / "c"
    folder.mkdir()
    (folder / "compare.json").write_text(json.dumps([row("kde", (), error="too few rows"), row("vae", (), error="diverged")]))
    page = Page(write_report(folder).read_text())
    assert "too few rows" in page.row("kde")
    assert "diverged" in page.row("vae")


def test_distances_without_likelihoods_are_drawn(tmp_path, without_models):
    folder = tmp_path / "c"
    folder.mkdir()
    (folder / "compare.json").write_text(json.dumps([row("gan", distances(0.5), "none"), row("gan-2", distances(0.2), "none")]))
    text = write_report(folder).read_text()
    assert re.findall(r'<th scope="row" data-key="(gan[^"]*)"', text) == ["gan-2", "gan"]
    assert 'aria-label="Energy distance"' in text


def test_real_runs_and_comparisons_are_reported(tmp_path):
    import manykin as mk
    from manykin.evaluation import save_evaluation

    compared, rows = tmp_path / "compared", []
    compared.mkdir()
    for name in ("gaussian-mixture", "gan"):
        fitted = mk.fit(name, "two-moons", preset="tiny", max_steps=3, out=compared / name)
        found = mk.evaluate(fitted, metrics="quick", n=200)
        save_evaluation(compared / name, found)
        rows.append(row(name, found.metrics, str(fitted.density or "none")))
    (compared / "compare.json").write_text(json.dumps(rows))
    page = Page(write_report(compared).read_text())
    assert "exact" in page.row("gaussian-mixture")
    assert "gap to the known entropy" in page.text
    assert "none" in page.row("gan")
    labels = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg"]
    assert "gaussian-mixture: density with the data on top" in labels
    assert "Components of gaussian-mixture" in labels
    assert "gan: samples" in labels
    run = Page(write_report(compared / "gaussian-mixture").read_text())
    assert "exact" in run.row("negative log-likelihood")


def test_a_real_table_is_reported_with_its_own_names(tmp_path):
    import numpy as np
    import pandas as pd

    import manykin as mk

    rng = np.random.default_rng(0)
    frame_ = pd.DataFrame({NASTY: rng.normal(size=200), "colour": rng.choice(["red", "<i>blue</i>"], 200), "n": rng.integers(0, 5, 200)})
    mk.fit("mixture", frame_, preset="tiny", max_steps=3, out=tmp_path / "run")
    text = write_report(tmp_path / "run").read_text()
    assert NASTY not in text
    assert "<i>blue" not in text
    assert "&lt;i&gt;blue" in text


def test_losses_of_several_phases_share_a_panel_and_events_are_told(tmp_path, without_models):
    lines = [
        {"step": i, "seconds": i / 10, "loss": 1.0 + i, "loss.generator": 2.0, "lr": 0.1, "val_nll": 3.0 + i, "note.fake": 0.5 * i} for i in range(5)
    ]
    figure = learning_curves(lines)
    assert figure is not None
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]
    assert titles == ["loss", "fake", "lr"]
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert {text.get_text() for text in legend.get_texts()} == {"first phase", "generator", "validation nll"}
    folder = write_plane(tmp_path / "run")
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 7, "event": "went back <to> 5"}))
    assert "step 7: went back <to> 5" in Page(write_report(folder).read_text()).text


def test_the_page_says_in_plain_words_what_was_compared_and_what_came_out(comparison):
    text = Page(comparison.read_text()).text
    assert "9 generative models were fitted to digits (8×8 grey pictures of 17 levels)" in text
    assert "1,437 rows and was judged on 360 held-out rows" in text
    assert "at most 1 min 00 s of training" in text
    assert "1 of them failed" in text
    assert "Best exact likelihood: mixture at 2.146 ± 0.010 bits/dim" in text
    assert "Likelihoods of different kinds are not ranked" in text
    assert "Best samples by energy distance: class-mixture (with mixture and gaussian-mixture not told apart from it)" in text
    assert "Told apart from real data: " in text
    assert re.search(r"mixture, .* by 1 of 1 metric; class-mixture", text)
    assert "class-mixture by none of 1: as good as real by what was computed." in text
    assert "that can tell" not in text
    assert "Failed: kde" in text
    assert "lower the learning rate" in text


def test_marks_of_best_hold_only_inside_a_group(comparison):
    table = re.search(r'<table id="results".*?</table>', comparison.read_text(), flags=re.DOTALL)
    assert table is not None
    lines = re.findall(r'<th scope="row" data-key="([\w-]+)">(.*?)</tr>', table[0], flags=re.DOTALL)
    found = {name: re.findall(r'<td class="(\w*)"', line) for name, line in lines if name != "kde"}
    assert {name for name, (own, _) in found.items() if own == "best"} == {"mixture", "vae"}
    assert {name for name, (_, distance) in found.items() if distance} == {"class-mixture", "gaussian-mixture", "mixture"}


def test_every_metric_of_every_model_stands_in_a_second_table_with_its_floor(comparison):
    page = Page(comparison.read_text())
    row_ = next(re.sub(r"\s+", " ", text) for text in page.rows if "energy distance ↓" in text and "model" not in text)
    assert "-0.001 ± 0.015" in row_
    assert "0.040 ≈ ± 0.020" in row_
    assert "4.000" in row_
    nll = [re.sub(r"\s+", " ", text) for text in page.rows if text.strip().startswith("negative log-likelihood ↓")]
    assert len(nll) == 2
    assert "log p(x | c)" in nll[1]
    assert "95.20 ± 0.40 exact" in nll[0]
    assert "not finite" in nll[0]


def test_details_become_tables_and_neighbours_pictures(comparison):
    text = comparison.read_text()
    page = Page(text)
    rows = [re.sub(r"\s+", " ", text).strip() for text in page.rows]
    assert "two 20.0% 20.0% 2.0%" in rows
    assert 'title="this class is (nearly) missing"' in text
    assert "real 0.950 ± 0.010 – –" in rows
    assert "nothing: the most frequent class 0.400 0.400 0.400" in rows
    assert "samples of gan 0.700 ± 0.020 – 0.660 ± 0.030" in rows
    assert "samples of vae 0.900 ± 0.020 – –" in rows
    assert "real, vae – – 0.910 ± 0.010" in rows
    assert "samples of gan logistic regression +0.050 ± 0.010" in rows
    assert "It helped below 200 rows." in page.text
    assert sum(attributes.get("alt") == "nearest training pictures" for _, attributes in page.tags) == 8
    assert "same" in text[text.index('class="neighbours"') :]


def test_a_model_of_several_seeds_shows_the_first_that_finished(comparison):
    assert "Samples of realnvp" in [attributes.get("alt") for tag, attributes in Page(comparison.read_text()).tags if tag == "img"]


def test_quality_is_drawn_against_time(comparison):
    text = comparison.read_text()
    assert 'aria-label="Energy distance against seconds of training"' in text
    start = text.index('aria-label="Energy distance against seconds of training"')
    drawn = text[start : text.index("</svg>", start)]
    for name in ("vae", "gan", "class-mixture", "real data (floor)", "seconds of training, logarithmic"):
        assert name in drawn
    from manykin.report.compared import read_comparison
    from manykin.report.timing import validation

    runs = read_comparison(comparison.parent, with_models=False).runs
    assert validation(runs["vae"]) == []
    (comparison.parent / "vae" / "metrics.jsonl").write_text("\n".join(json.dumps({"step": i, "seconds": i / 2, "val_nll": 9 - i}) for i in range(4)))
    assert validation(reading.read_run(comparison.parent / "vae", with_model=False)) == [(0.0, 9.0), (0.5, 8.0), (1.0, 7.0), (1.5, 6.0)]


def test_tables_by_column_show_the_worst_of_many(tmp_path, without_models):
    folder = write_table(tmp_path / "run")
    columns = [{"name": f"c{i}" if i else NASTY, "kind": "real", "distance": i / 100, "floor": 0.01} for i in range(70)]
    pairs = [{"a": "x", "b": NASTY, "distance": None, "floor": 0.2}, {"a": "x", "b": "y", "distance": "wrong"}, 3]
    write_evaluation(
        folder, "mixture", distances(0.3), ("8 columns <b>differ</b>",), columns=columns, pairs=pairs, classes={"names": [1]}, usefulness=7
    )
    real = torch.cat([torch.randn(24, 2), torch.randint(0, 4, (24, 1)), torch.randint(0, 9, (24, 2))], 1).double()
    write_neighbours(folder, real[:8], real)
    text = write_report(folder).read_text()
    page = Page(text)
    rows = [re.sub(r"\s+", " ", text).strip() for text in page.rows]
    assert "c69 0.010 0.690" in rows
    assert not any(line.startswith("c39 ") for line in rows)
    assert "The 30 furthest from real data, out of 70." in page.text
    assert "--heat: 1.00" in text
    assert "8 columns <b>differ</b>" in page.text
    assert text.index("8 columns") < text.index("Samples beside real data")
    assert NASTY not in text
    assert sum(line.startswith("sample ") for line in rows) == 2
    assert any(line.startswith("same ") for line in rows)


def test_the_markdown_is_a_table_for_a_paper(comparison):
    lines = (comparison.parent / "report.md").read_text().splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
    assert table[0].startswith("| model | likelihood ↓ | energy distance ↓ | training | samples/s | parameters | memory |")
    assert table[2].startswith("| real data (floor) | – | -0.001 ± 0.015 |")
    assert "| mixture (classical) | **2.146 ± 0.010 bits/dim (exact)** | **0.080 ± 0.020** | 3.2 s | 5,120 | 12,345 | 456 MB |" in table
    assert "| class-mixture | 2.030 ± 0.010 bits/dim (exact) | **0.040 ± 0.020 ≈** |" in "\n".join(table).replace(" (classical)", "")
    text = "\n".join(lines)
    assert not re.search(r"<[a-zA-Z/!]", text)
    assert "*Exact likelihood of log p(x)*" in text
    assert "**Bits per dimension.**" in text
    assert "failed: singular matrix" in text
    assert "- gan: 3 of 10 classes are missing" in text


def test_formats_choose_what_is_written(tmp_path, without_models):
    folder = write_plane(tmp_path / "run")
    assert write_report(folder, "markdown") == folder / "report.md"
    assert not (folder / "report.html").exists()
    assert "| energy distance ↓ | 0.020 ± 0.020 data units | -0.001 ± 0.015 | as good as real | samples | 360 |" in (folder / "report.md").read_text()
    (folder / "report.md").unlink()
    assert write_report(folder, "html") == folder / "report.html"
    assert not (folder / "report.md").exists()
    with pytest.raises(InvalidInput, match="format 'pdf' is not known; expected one of all, html, markdown"):
        write_report(folder, "pdf")


def test_numbers_of_a_run_stand_beside_their_floor(tmp_path, without_models):
    page = Page(write_report(write_plane(tmp_path / "run")).read_text())
    line = page.row("energy distance ↓")
    assert "0.020 ± 0.020" in line
    assert "as good as real" in line
    assert "-0.001 ± 0.015" in line
    assert not any(text.strip().startswith("energy distance floor") for text in page.rows)
    assert "Real rows get -0.001 ± 0.015." in page.text
    assert "fitted to digits (vectors of 2 numbers) in 300 steps, 12.3 s" in page.text


def test_a_comparison_may_be_broken_in_many_ways(tmp_path, without_models):
    folder = tmp_path / "c"
    folder.mkdir()
    broken = {"name": "energy_distance", "value": None, "stderr": None, "quantity": "samples"}
    rows = [
        {"model": "a", "metrics": [broken, {"value": 3}, "junk"], "curve": [{"seconds": None}, {"seconds": 1.0, "energy_distance": None}]},
        {"model": "b", "metrics": None, "seconds": "soon", "runs": "none", "curve": 3, "warnings": None, "seeds": None},
        {"model": "..", "error": ""},
        row("vae", estimates(98.1, "bound") + distances(0.1), "bound"),
    ]
    (folder / "compare.json").write_text(json.dumps(rows))
    (folder / "comparison.json").write_text("[")
    (folder / "real.safetensors").write_text("junk")
    (folder / "data.safetensors").write_text("junk")
    write_run(folder / "vae", "vae", Image((1, 8, 8), 17), digits()[:64], digits()[64:128])
    (folder / "vae" / "evaluation.json").write_text("{")
    page = Page(write_report(folder).read_text())
    assert "not finite" in page.row("a")
    assert "The run folder is damaged, so its pictures are left out" in page.text
    assert "evaluation.json cannot be read" in page.text
    (folder / "compare.json").write_text("[]")
    assert "0 models on own data" in Page(write_report(folder).read_text()).text


def test_the_row_counts_and_the_space_come_from_the_prepared_data(tmp_path, without_models):
    folder = tmp_path / "c"
    folder.mkdir()
    (folder / "compare.json").write_text(json.dumps([row("kde", (), error="no")]))
    described = {"manykin.dataset": json.dumps({"format": 1, "space": Image((1, 8, 8), 17).to_json()})}
    save_file({"train/x": digits()[:50], "test/x": digits()[50:60], "test/label": torch.zeros(10)}, folder / "data.safetensors", described)
    save_file({"x": digits()[:64]}, folder / "real.safetensors")
    page = Page(write_report(folder).read_text())
    assert "the same 50 rows and was judged on 10 held-out rows" in page.text
    assert "Every model failed" in page.text
    assert [attributes["alt"] for tag, attributes in page.tags if tag == "img"] == ["Real data"]


def test_the_first_phase_has_its_own_name():
    lines = [{"step": i, "loss": 1.0 + i, "loss.generator": 2.0} for i in range(5)]
    figure = learning_curves(lines, first="discriminator")
    assert figure is not None
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert {text.get_text() for text in legend.get_texts()} == {"discriminator", "generator"}


def test_among_several_models_pairs_of_columns_stand_with_their_model(tmp_path, without_models):
    folder = tmp_path / "c"
    folder.mkdir()
    for name in ("mixture", "vae"):
        write_table(folder / name)
    (folder / "compare.json").write_text(
        json.dumps([row("mixture", estimates(6.0, bits=None)), row("vae", estimates(6.5, "bound", bits=None), "bound")])
    )
    text = write_report(folder).read_text()
    first = text.index('<details class="model">')
    found = {name: text.index(f'aria-label="{name}: pairs of columns"') for name in ("mixture", "vae")}
    assert first < found["mixture"] < found["vae"]
    assert text.index('aria-label="vae: marginal histograms"') < first


def judged(name: str, value: float, floor: float, tells: bool | None, unit: str = "", **about: str | None) -> tuple[Estimate, ...]:
    own = Estimate(name, value, None if unit == "p-value" else 0.01, unit, "estimate", 300, "", "samples", **about)
    return own, Estimate(f"{name}_floor", floor, own.stderr, unit, "estimate", 300, "", "samples", None, own.data, tells)


def compared(folder: Path, *rows: dict[str, object]) -> Page:
    folder.mkdir()
    (folder / "compare.json").write_text(json.dumps(rows))
    return Page(write_report(folder).read_text())


def test_a_metric_without_power_is_never_as_good_as_real(tmp_path, without_models):
    blind, keen = judged("energy_distance", 0.01, 0.0, False), judged("recall", 0.9, 0.9, True)
    bad = judged("recall", 0.1, 0.9, True)
    page = compared(tmp_path / "c", row("vae", blind + keen, "none"), row("gan", blind + bad, "none"))
    line = page.row("vae")
    assert "0.010 ± 0.010 cannot tell at this size" in line
    assert "0.900 ± 0.010 as good as real" in line
    every = next(re.sub(r"\s+", " ", text) for text in page.rows if text.strip().startswith("energy distance ↓"))
    assert every.count("0.010 ? ± 0.010") == 2
    assert "Told apart from real data: gan by 1 of 1 metric that can tell at this size (300 samples); vae by none of 1: as good as real, as far as " \
        "300 samples can say." in page.text  # fmt: skip
    assert "crude forgeries" in page.text
    text = (tmp_path / "c" / "report.md").read_text()
    assert "0.010 ± 0.010 ?" in text
    assert "≈: as good as real data. ?: cannot tell at this size." in text
    assert "**Cannot tell at this size.**" in text


def test_too_few_samples_for_any_metric_are_said(tmp_path, without_models):
    blind, gross = judged("energy_distance", 0.01, 0.0, False), judged("energy_distance", 7.0, 0.0, False)
    few = "300 samples are too few for any metric here to tell even crude forgeries from real data."
    page = compared(tmp_path / "c", row("vae", blind, "none"), row("gan", blind, "none"))
    assert few in page.text
    assert "Told apart" not in page.text
    assert f"{few} Even so, gan is told apart." in compared(tmp_path / "d", row("vae", blind, "none"), row("gan", gross, "none")).text
    mixed = compared(tmp_path / "e", row("vae", blind, "none"), row("gan", judged("recall", 0.1, 0.9, True), "none"))
    assert "gan by 1 of 1 metric that can tell at this size (300 samples). Too few samples to say anything of vae." in mixed.text


def test_p_values_rank_nothing_and_say_told_apart_or_not(tmp_path, without_models):
    honest, caught = judged("mmd_p", 0.3, 0.8, True, "p-value"), judged("mmd_p", 0.001, 0.8, True, "p-value")
    page = compared(tmp_path / "c", row("vae", honest, "none"), row("gan", caught, "none"))
    every = next(re.sub(r"\s+", " ", text) for text in page.rows if text.strip().startswith("MMD p-value"))
    assert every.strip().startswith("MMD p-value p-value ")
    assert "0.3000 ≈" in every
    assert "0.001000 ≠" in every
    marked = [dict(attributes).get("class") for tag, attributes in page.tags if tag == "td"]
    assert not {"best", "tied"} & set(marked)
    assert "Ranks nothing." in page.text
    assert "gan by 1 of 1" in page.text
    run = write_plane(tmp_path / "run")
    write_evaluation(run, "gaussian-mixture", honest)
    assert "not told apart" in Page(write_report(run).read_text()).row("MMD p-value")
    write_evaluation(run, "gaussian-mixture", caught + distances(9.0))
    page = Page(write_report(run).read_text())
    assert "told apart" in page.row("MMD p-value")
    assert "not told apart" not in page.row("MMD p-value")
    assert "worse" in page.row("energy distance")


def test_the_size_of_a_sample_is_not_taken_for_held_out_rows(tmp_path, without_models):
    folder = write_plane(tmp_path / "run")
    many = tuple(Estimate(each.name, each.value, each.stderr, each.unit, "estimate", 5000, "", "samples") for each in distances(0.1))
    write_evaluation(folder, "gaussian-mixture", (Estimate("nll", 2.9, 0.04, "nats", "exact", 512), *many))
    assert "The numbers are of 512 held-out rows" in Page(write_report(folder).read_text()).text
    assert "The numbers are of 512 held-out rows" in (folder / "report.md").read_text()
    write_evaluation(folder, "gaussian-mixture", many)
    assert "The numbers are of 360 held-out rows" in Page(write_report(folder).read_text()).text
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"data": {"name": "digits"}}))
    text = Page(write_report(folder).read_text()).text
    assert "The numbers are of" not in text
    assert "5,000" in text


def test_rows_of_different_units_cannot_be_sorted_by_a_model(comparison):
    text = comparison.read_text()
    tables = re.findall(r'<table[^>]*class="([^"]*)"[^>]*>\s*<thead>(.*?)</thead>', text, flags=re.DOTALL)
    every = next((kind, head) for kind, head in tables if "metric</th>" in head)
    assert "sortable" not in every[0]
    assert "<button" not in every[1]
    assert any("sortable" in kind and "class</button>" in head for kind, head in tables)


def test_unlike_claims_are_never_drawn_as_one_ranking(tmp_path, without_models, comparison):
    text = comparison.read_text()
    start = text.index('aria-label="Likelihood in bits/dim"')
    drawn = text[start : text.index("</svg>", start)]
    found = [re.sub(r"\s+", "", each) for each in re.findall(r"<text[^>]*>([^<]*)</text>", drawn)]
    assert {"ExactlikelihoodoflogP(x)".lower(), "boundonlogp(x)"} <= {each.lower() for each in found}
    assert found.index("mixture") < found.index("independent") < found.index("vae") < found.index("gaussian-mixture")
    own, other = judged("energy_distance", 0.3, 0.0, True), judged("energy_distance", 0.1, 0.0, True, data="pixels", sampler="ddim")
    folder = tmp_path / "c"
    compared(folder, row("gan", own, "none"), row("vae", other, "none"))
    text = (folder / "report.html").read_text()
    start = text.index('aria-label="Energy distance"')
    drawn = text[start : text.index("</svg>", start)]
    assert "Energy distance, on pixels, sampler ddim" in drawn


def test_fid_has_its_own_title_and_a_p_value_no_arrow(tmp_path, without_models):
    assert [title_of(name) for name in ("fid", "fid_inf", "kid", "fid_floor", "frechet_distance")] == [
        "FID", "FID, extrapolated", "KID", "FID, noise floor", "Fréchet distance",
    ]  # fmt: skip
    assert arrow_of("mmd_p") == ""
    page = compared(tmp_path / "c", row("vae", judged("fid", 3.0, 1.0, True), "none"), row("gan", judged("fid", 9.0, 1.0, True), "none"))
    assert "Best samples by FID: vae" in page.text
    assert "How far the features of the samples are from those of real pictures" in page.text
    assert "Fréchet distance" not in page.text.replace("The Fréchet distance", "")


def test_the_table_of_the_command_line_shows_the_same_standings(capsys):
    import sys

    from manykin.cli.evaluate import show_evaluation
    from manykin.cli.output import Output, Settings

    metrics = (*judged("energy_distance", 0.01, 0.0, False), *judged("recall", 0.9, 0.9, True), *judged("precision", 0.1, 0.9, True),
               *judged("mmd_p", 0.01, 0.8, True, "p-value"))  # fmt: skip
    show_evaluation(Output(Settings(), sys.stdout), Evaluation("vae", "digits", metrics))
    lines = capsys.readouterr().out.splitlines()
    ends = {line.split()[0]: line.rstrip().split("  ")[-1].strip() for line in lines if line.startswith(("energy", "recall", "precision", "mmd"))}
    assert ends["energy_distance"].endswith("?")
    assert ends["recall"].endswith("as good")
    assert ends["precision"].endswith("worse")
    assert ends["mmd_p"].endswith("told apart")
    legend = "\n".join(lines[lines.index(next(line for line in lines if line.startswith("real data:"))) :])
    assert [word for word in ("as good:", "worse:", "told apart:", "not told apart:", "?:") if f"\n{word}" in legend] == [
        "as good:", "worse:", "told apart:", "?:",
    ]  # fmt: skip
