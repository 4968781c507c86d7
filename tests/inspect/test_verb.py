"""`cnn inspect`: the page for images, series and volumes, and one line for each mistake."""

import json
from html.parser import HTMLParser

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cnn import cli
from cnn.inspect import story
from cnn.inspect.findings import look
from cnn.inspect.network import Network
from cnn.layers.conv import Conv
from cnn.models import build_model
from tests.support.open_nets import network, noise

VOID = ("meta", "img", "br", "hr", "link", "input")
FETCHING = ("src", "href", "srcset", "data", "poster", "action")


class Checked(HTMLParser):
    """Reads a page: tags that do not match, what it would fetch, its headings and pictures."""

    def __init__(self, text):
        super().__init__()
        self.open, self.wrong, self.fetched, self.headings, self.pictures = [], [], [], [], 0
        self.feed(text)
        self.close()
        self.wrong += [f"<{tag}> stays open" for tag in self.open]
        if "@import" in text or "url(" in text or "<script" in text:
            self.fetched.append("style or script")

    def handle_starttag(self, tag, attributes):
        if tag not in VOID:
            self.open.append(tag)
        self.pictures += tag == "img"
        for name, value in attributes:
            if name in FETCHING and not value.startswith(("data:", "#")):
                self.fetched.append(f"{tag} {name}={value[:40]}")
        if tag == "img" and not dict(attributes).get("alt"):
            self.wrong.append("<img> without alt")

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"</{tag}>")

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def sound(path):
    """The page, after it proved whole and self-contained."""
    text = path.read_text(encoding="utf-8")
    page = Checked(text)
    assert page.wrong == [] and page.fetched == []
    assert text.startswith("<!DOCTYPE html>") and 'name="viewport"' in text
    return page


@pytest.fixture(scope="module")
def run(trained):
    """A finished run on made-up digits and a folder of pictures."""
    folder = trained("digits")
    (folder / "data").mkdir()
    for i in range(5):
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(pixels).save(folder / "data" / f"{i}.png")
    return folder


@pytest.mark.drawn
def test_the_command_writes_pictures_a_page_and_numbers(run, capfd):
    out = run / "out"
    argv = ["inspect", f"--workdir={run / 'run'}", str(run / "data" / "0.png"), f"--out={out}"]
    assert cli.main([*argv, f"--data={run / 'data'}", "--examples=3", "--json"]) == 0
    said = capfd.readouterr()
    found = json.loads(said.out)
    assert "inspect: what excites " in said.err and "pictures and page" in said.err
    page = sound(out / "index.html")
    told = " ".join(page.headings)
    for step in (
        "Convolution",
        "ReLU",
        "Pooling",
        "Fully connected",
        "Softmax",
        "Receptive",
        "Equivariance",
    ):
        assert step in told
    assert page.pictures == len(found["pictures"]) == len(list(out.glob("*.png")))
    assert found["examples"] == 3  # the input is one of the data, and counts once
    assert 0 < found["probability"] <= 1
    by_name = {layer["name"]: layer for layer in found["layers"]}
    assert by_name["stem/conv1"]["receptive_field"] == [3, 3] and by_name["head"][
        "receptive_field"
    ] == [None, None]
    assert by_name["stem/relu"]["equivariance"]["shift"]["1"] < 1e-5
    assert by_name["stem/relu"]["activity"]["dead"] >= 0


def test_layers_are_chosen_and_the_default_folder_is_in_the_run(run, capfd):
    argv = ["inspect", f"--workdir={run / 'run'}", str(run / "data" / "1.png"), "--layers=^stem"]
    assert cli.main(argv) == 0
    page = run / "run" / "inspect" / "1" / "index.html"
    assert str(page) in capfd.readouterr().out
    assert "stem/conv1" in page.read_text() and sound(page).pictures > 8


def told(folder, net, raw):
    """The page about one raw input that the network takes as it is."""
    card = {"model": "test", "dataset": "<made> & up", "classes": ["a<b", "c", "d"]}
    found = look("x & y", card, net, raw, jax.jit(lambda batch: batch))
    page, _ = story.write(found, folder)
    return found, sound(page)


DRAWN = pytest.mark.drawn  # images are in the test of the command


@pytest.mark.parametrize(
    "shape", [pytest.param((24, 2), marks=DRAWN), (12, 10, 3), pytest.param((6, 8, 8, 1), marks=DRAWN)]
)
def test_any_spatial_rank_is_told(shape, tmp_path):
    net = network(lambda x: nn.relu(Conv(4, 3, 2, name="conv")(x)), shape)
    found, page = told(tmp_path, net, noise(shape)[0])
    assert found.occluded.shape == found.cams["conv/relu"].shape == shape[:-1]
    assert "Equivariance: does the map move when the input moves?" in page.headings


def test_a_dense_network_is_told_without_convolution(tmp_path):
    model = build_model("mlp", {"num_classes": 3, "width": 8})
    variables = model.init(jax.random.key(0), jnp.zeros((1, 6, 6, 1)), train=False)
    _, page = told(tmp_path, Network(model, variables), noise((6, 6, 1))[0])
    assert "No convolution" in page.headings and "Convolution" not in page.headings


@pytest.mark.slow
def test_a_network_for_pixels_is_told(tmp_path):
    model = build_model("unet", {"num_classes": 2, "widths": (4, 4)})
    variables = model.init(jax.random.key(0), jnp.zeros((1, 12, 10, 3)), train=False)
    found, page = told(tmp_path, Network(model, variables), noise((12, 10, 3))[0])
    assert found.target is None and any(name.startswith("decoder1") for name in found.equivariance)
    assert "Equivariance: does the map move when the input moves?" in page.headings


MISTAKES = [
    ("{run}/none.png", "does not exist"),
    ("{run}/data", "stands for 5 files; give one"),
    ("{data}/0.png --layers=(", "is no regular expression"),
    ("{data}/0.png --layers=stage9", "matches no layer; there are"),
    ("{data}/0.png --slice=2", "--slice is for volumes"),
    ("{data}/0.png --examples=0", "must be positive"),
    ("{data}/0.png --data={run}/nothing", "does not exist"),
    ("{data}/0.png --out={data}/0.png", "cannot be written"),
    ("{data}/0.png --layer=x", "Did you mean '--layers'"),
    ("{run}/run/summary.json", "summary.json"),
]


@pytest.mark.parametrize(("argv", "said"), MISTAKES, ids=[said for _, said in MISTAKES])
def test_a_mistake_is_one_line(run, argv, said, capfd):
    filled = argv.format(run=run, data=run / "data").split()
    assert cli.main(["inspect", f"--workdir={run / 'run'}", *filled]) == 2
    err = capfd.readouterr().err
    assert said in err and len(err.splitlines()) == 1 and "Traceback" not in err
