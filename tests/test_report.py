"""`jaxql report`: one page that needs nothing else, and one line for whatever is wrong."""

import re
from html.parser import HTMLParser

import pytest

import jaxql
from jaxql import cli
from jaxql.lab import report

VOID = {"meta", "img", "br", "link", "source", "use", "input"}


@pytest.fixture(autouse=True)
def plotting():
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    jaxql.train("q-learning", env="FrozenLake-v1", seeds=2, out=root / "lake", steps=1_000, eval_every=500,
                eval_episodes=2, stop_when_solved=False, quiet=True)  # fmt: skip
    return root


@pytest.fixture(scope="module")
def page(folder, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    assert cli.main(["report", str(folder), "--out", str(path)]) == 0
    return path.read_text()


class Page(HTMLParser):
    """Notes the tags and attributes of a page, and fails where a tag is not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_has_all_its_parts(page):
    parsed = Page(page)
    text = " ".join(parsed.text)
    for word in ("Runs", "Curves", "Statistics", "The greedy policy", "States", "Repeat it", "FrozenLake-v1",
                 "learning_rate", "version of jax", "device", "95 % stratified bootstrap interval"):  # fmt: skip
        assert word in text, word
    assert parsed.tags.count("video") == 1 and parsed.tags.count("svg") == 5  # returns, three measures, states


def test_the_page_needs_no_network_and_is_small(page):
    parsed = Page(page)
    links = [value for name, value in parsed.attributes if name in ("src", "href", "xlink:href")]
    assert links and all(value.startswith(("data:", "#")) for value in links)
    assert not re.search(r"@import|url\((?!#)", page)
    assert len(page) < report.MOST_BYTES


def test_every_reference_has_one_target(page):
    ids = [value for name, value in Page(page).attributes if name == "id"]
    used = {one or other for one, other in re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', page)}
    assert used and all(ids.count(each) == 1 for each in used)


def test_light_dark_and_phone(page):
    assert "prefers-color-scheme: dark" in page and "width=device-width" in page
    assert "currentColor" in page and report.INK not in page


def test_what_a_run_says_is_escaped():
    table = report._table(["<b>"], [["<script>alert(1)</script>", "a & b"]])
    assert "<script>" not in table and "<th>&lt;b&gt;</th>" in table and "a &amp; b" in table


def test_without_a_video(folder, tmp_path, capsys):
    path = tmp_path / "a.html"
    assert cli.main(["report", str(folder), "--out", str(path), "--no-video"]) == 0
    assert "<video" not in path.read_text()
    assert capsys.readouterr().out.startswith(f"{path}: 2 runs in 1 groups, 0.")


def test_what_cannot_be_shown_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "MOST_BYTES", 250_000)
    path = tmp_path / "a.html"
    assert cli.main(["report", str(folder), "--out", str(path)]) == 0
    assert "its video is too large for the page" in path.read_text()


@pytest.mark.parametrize(("argv", "message"), [
    ([], "RUN is missing"),
    (["nowhere"], "no folder nowhere"),
    (["FOLDER", "--out", "a.pdf"], "ends in .html"),
    (["FOLDER", "--out", "no/a.html"], "no folder no"),
    (["FOLDER", "--where", "agent=dqn"], "none of 2 runs"),
    (["FOLDER", "--by", "nothing"], 'no run has a setting "nothing"'),
])  # fmt: skip
def test_bad_input_is_one_line(folder, tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", *(str(folder) if word == "FOLDER" else word for word in argv)]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and message in err
    assert not list(tmp_path.iterdir())
