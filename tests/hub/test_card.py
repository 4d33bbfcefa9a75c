"""The model card says what is known of a network, and only that."""

import json
import re
from pathlib import Path

import pytest
import timm
from huggingface_hub import ModelCard

from dynaconv import convert, profile
from dynaconv.hub import DynaconvModel
from tests.helpers import count
from tests.hub.helpers import MODEL, OPTIONS, make_run
from tests.train.helpers import write_image


def _python(card: ModelCard) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card.content, re.DOTALL)


def test_the_card_of_a_run(saved: Path, model: DynaconvModel) -> None:
    card = ModelCard.load(saved / "README.md")
    assert card.data.library_name == "dynaconv"
    assert card.data.license == "apache-2.0"
    assert card.data.pipeline_tag == "image-classification"
    assert "dcd" in card.data.tags
    results = {(result.dataset_name, result.metric_type): result.metric_value for result in card.data.eval_results}
    assert results == {("pets", "accuracy"): 0.8982, ("pets", "top_5_accuracy"): 0.9984}

    text = card.text
    assert "# dcd_mobilenetv2_035, trained on pets" in text
    for line in (
        "| accuracy on 10,000 test images | 89.82% |",
        "| accuracy on 3,000 validation images, best epoch | 90.83% |",
        "| fox | 75.0% |",
        "| weights of epoch | 4, moving average of the weights |",
        "| optimizer | SGD(momentum=0.9) |",
        "mean (0.3) and standard deviation (0.4)",
        "resized to 20 x 20 pixels",
        "arxiv.org/abs/2103.08756",
    ):
        assert line in text, line
    assert "None" not in text
    assert "nan" not in text


def test_the_costs_are_those_of_the_network_and_its_static_twin(saved: Path, model: DynaconvModel) -> None:
    twin = timm.create_model("static_mobilenetv2_035", num_classes=7, in_chans=1, **OPTIONS)
    text = (saved / "README.md").read_text()
    for name, network in ((MODEL, model.network), ("static_mobilenetv2_035, its static twin", twin)):
        assert f"| {name} | {count(network):,} | {profile(network, (1, 20, 20)).macs:,} |" in text


def test_the_code_on_the_card_runs(saved: Path, tmp_path: Path) -> None:
    card = ModelCard.load(saved / "README.md")
    blocks = _python(card)
    assert len(blocks) == 2
    picture = write_image(tmp_path / "image.png", 90)
    for block in blocks:
        here = block.replace("path/to/this/folder", str(saved)).replace("image.png", str(picture))
        exec(compile(here, "<card>", "exec"), {})


def test_the_card_of_a_converted_network(tmp_path: Path) -> None:
    static = timm.create_model("test_resnet", num_classes=4)
    network = convert(static, "odconv", kernel_sizes=3)
    model = DynaconvModel.from_network(network, class_names=list("abcd"), image_size=32)
    card = model.generate_model_card(repo_id="ada/nets", notes="Mine.")
    assert "made dynamic" in card.text
    assert "omni-dimensional" in card.text
    assert "Mine." in card.text
    assert "the shorter side is resized so that a centre crop of 32 x 32 pixels keeps 0.95 of the side" in card.text
    assert "Omni-Dimensional Dynamic Convolution" in card.text
    assert f"| test_resnet, its static twin | {count(static):,} |" in card.text
    # Nothing is known of its training, and timm cannot load it.
    for absent in ("## Results", "## Training", "accuracy", "timm.create_model", "model-index"):
        assert absent not in card.content, absent
    assert len(_python(card)) == 1


def test_a_static_network_is_not_called_dynamic(tmp_path: Path) -> None:
    make_run(tmp_path / "run", model="static_mobilenetv2_035")
    card = DynaconvModel.from_run(tmp_path / "run").generate_model_card()
    assert "None of its convolutions is dynamic." in card.text
    assert "twin" not in card.text
    assert "## Citation" not in card.text


def test_a_card_is_replaced_until_it_is_edited(
    model: DynaconvModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dynaconv.hub.card.measure_costs", lambda *_: [])
    page = tmp_path / "README.md"
    model.save_pretrained(tmp_path, model_card_kwargs={"notes": "First."})
    model.save_pretrained(tmp_path, model_card_kwargs={"notes": "Second."})
    assert "First." not in page.read_text()
    assert "Second." in page.read_text()
    page.write_text("# Mine")
    model.save_pretrained(tmp_path)
    assert page.read_text() == "# Mine"
    assert json.loads((tmp_path / "config.json").read_text())["num_classes"] == 7
