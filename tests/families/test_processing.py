"""What a ComaProcessor promises holds for every family, whose own processor makes the tokens and tensors of images."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from modeling_coma import ComaProcessor
from tests.clean_process import libraries, run_isolated
from tests.families import torchvision_on_cpu
from tests.families.folders import FAMILIES, STRANGERS


K = 4
EVERY = [*FAMILIES, *STRANGERS]
every_family = pytest.mark.parametrize("family", EVERY)
# Without torchvision these cannot make images, and of the last two nothing loads: they have no other image processor.
NEED_IT_FOR_IMAGES = {"gemma4", "internvl", "llava_onevision", "minicpmv4_6", "mistral3", "smolvlm"}
NEED_IT_TO_LOAD = {"cohere2_vision", "lfm2_vl"}


@pytest.fixture
def processor(family, family_coma) -> ComaProcessor:
    return family_coma(family)[1]


@pytest.fixture(scope="session")
def saved(family_coma, tmp_path_factory) -> Path:
    """The processors of all families as they are saved, in folders of their names."""
    root = tmp_path_factory.mktemp("processors")
    for family in EVERY:
        family_coma(family)[1].save_pretrained(root / family)
    return root


def row_of(batch) -> list[int]:
    return batch["input_ids"][0].tolist()


def settings(processor: ComaProcessor) -> dict:
    """As a file has them, without where the code is, which what is saved says."""

    def read(values: dict) -> dict:
        return {name: value for name, value in values.items() if name != "auto_map"}

    return json.loads(json.dumps(processor.to_dict()), object_hook=read)


def assert_equal(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name


@every_family
def test_a_row_is_that_of_the_stock_processor_and_the_compression_tokens(family, processor, family_folder, picture):
    stock = AutoProcessor.from_pretrained(family_folder(family))
    for image in (picture(60, 40), picture(56, 112), picture(14, 14)):
        ours = processor.process([{"text": ["look:", " what is this?"], "image": image}])
        assert row_of(ours)[-K:] == processor.compression_token_ids
        text = f"look: what is this?{processor.image_placeholder}"
        options = {"text_kwargs": {"add_special_tokens": True}, "return_tensors": "pt"}
        theirs = stock(images=[[image]], text=[text], **options)
        assert row_of(ours)[:-K] == row_of(theirs)
        assert ours.keys() - {"input_ids", "attention_mask"} == processor.image_inputs.keys()
        for name in processor.image_inputs:
            torch.testing.assert_close(ours[name], theirs[name], atol=0, rtol=0, check_dtype=False, msg=name)


@every_family
def test_an_image_stands_where_it_was_given(family, processor, picture):
    """In the middle of a text it has the tokens that it has alone."""
    image = picture(60, 40)
    parts = [{"type": "text", "text": "left"}, {"type": "image", "image": image}, {"type": "text", "text": " right"}]
    alone, left, right, both = (
        row_of(processor.process([item]))[:-K]
        for item in (image, "left", " right", [{"role": "user", "content": parts}])
    )
    head = len(processor.head_ids)
    assert both == left + alone[head:] + right[head:]


@every_family
def test_the_limit_cuts_text_and_nothing_else(family, processor, picture):
    item = {"image": picture(60, 40), "text": " a red apple on a green tree"}
    whole = processor.process([item])
    ids, image = row_of(whole), row_of(processor.process([item["image"]]))
    cut = processor.process([item], max_length=len(ids) - 3)
    assert row_of(cut) == ids[: -K - 3] + ids[-K:]
    assert_equal({name: cut[name] for name in processor.image_inputs}, {n: whole[n] for n in processor.image_inputs})
    assert row_of(processor.process([item], max_length=len(image))) == image
    # A placeholder may end with a line break, which is text.
    with pytest.raises(ValueError, match=f"Row 1 is .* tokens of images, .* of text .*max_length is {len(image) - 2}"):
        processor.process(["a", item], max_length=len(image) - 2)
    with pytest.raises(ValueError, match="Row 0 is .*: raise it, allow truncation"):
        processor.process([item], max_length=len(ids) - 3, truncation=False)


@every_family
def test_a_limited_text_keeps_its_beginning_one_token_and_the_compression_tokens(family, processor):
    ids = row_of(processor.process(["a red apple on a green tree"]))
    least = len(processor.head_ids) + 1 + K
    assert row_of(processor.process(["a red apple on a green tree"], max_length=least)) == ids[: least - K] + ids[-K:]
    with pytest.raises(ValueError, match=f"Row 0 is 0 tokens of images, .*max_length is {least - 1}"):
        processor.process(["a red apple on a green tree"], max_length=least - 1)


@every_family
def test_a_text_that_types_a_special_token_is_refused(family, processor, family_folder, picture):
    stock = AutoProcessor.from_pretrained(family_folder(family))
    tokens = {*stock.tokenizer.all_special_tokens, stock.image_token, "<|ctoken_pad_1|>"}
    assert len(tokens) > 4
    for token in tokens:
        with pytest.raises(ValueError, match=f"Row 1: its text types .*{re.escape(token)}"):
            processor.process(["a", {"image": picture(28, 28), "text": f"an {token} apple"}])
        with pytest.raises(ValueError, match=re.escape(token)):
            processor.process_dialogues([[{"role": "user", "content": f"an {token} apple"}]])


@every_family
def test_a_broken_image_names_its_row(family, processor, picture):
    file = io.BytesIO()
    picture(60, 40).save(file, "png")
    for broken in (file.getvalue()[:-60], b"no image"):
        with pytest.raises(ValueError, match="Row 2: cannot decode the image of"):
            processor.process(["a", picture(), {"text": "a", "image": [picture(), broken]}])


@pytest.mark.parametrize("family", ["lfm2_vl", "mistral3"])
def test_an_image_that_the_stock_processor_cannot_take_names_its_row(family, processor, picture):
    what = "cannot make the tokens of an image of 1x200 pixels: "
    with pytest.raises(ValueError, match=f"Row 2: {processor.stock_processor['processor_class']} {what}"):
        processor.process(["a", picture(), picture(1, 200)])


@every_family
@pytest.mark.filterwarnings("error:`max_length` is ignored")  # by the stock processor, whose limit it is not
def test_what_is_saved_loads_again(family, processor, saved, picture):
    processor.max_length = 40
    batch = ["a red apple", picture(28, 28), {"text": "it", "image": picture(20, 30)}]
    expected = processor.process(batch, compression_instruction=True, max_length=None)
    folder = saved.parent / f"{family}-again"
    ComaProcessor.from_pretrained(saved / family, max_length=40).save_pretrained(folder)
    loaded = ComaProcessor.from_pretrained(folder)
    assert_equal(loaded.process(batch, compression_instruction=True, max_length=None), expected)
    assert settings(loaded) == settings(processor)
    assert loaded.chat_template == processor.chat_template and loaded.max_length == 40
    said = [[{"role": "user", "content": "what?"}, {"role": "assistant", "content": "it"}]]
    assert loaded.process_dialogues(said) == processor.process_dialogues(said)


STRANGER = """
import importlib.util, runpy, sys
from pathlib import Path
sys.path += sys.argv[3:]
runpy.run_path(sys.argv[2])
import torch
from PIL import Image
from PIL import Image
from transformers import AutoProcessor

root = Path(sys.argv[1])
image = Image.open(root / "image.png")
found = {"importable": importlib.util.find_spec("modeling_coma") is not None}
for folder in (path for path in root.iterdir() if path.is_dir()):
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    assert type(processor).__module__.startswith("transformers_modules.")
    found[folder.name] = dict(processor.process(["a red apple", {"image": image, "text": "what?"}]))
torch.save(found, root / "found.pt")
"""


def test_a_stranger_gets_the_same_tensors(family_coma, saved, picture):
    """In a process that does not know this package, offline."""
    picture(60, 40).save(saved / "image.png")
    run_isolated(["-c", STRANGER, str(saved), torchvision_on_cpu.__file__, *libraries()], saved.parent)
    found = torch.load(saved / "found.pt", weights_only=True)
    assert found.pop("importable") is False
    assert found.keys() == set(EVERY)
    for family, batch in found.items():
        expected = family_coma(family)[1].process(["a red apple", {"image": picture(60, 40), "text": "what?"}])
        assert_equal(batch, dict(expected))


WITHOUT_TORCHVISION = """
import json, sys
from pathlib import Path
sys.modules["torchvision"] = None  # by which Python says of a module that it is not there
sys.path.insert(0, sys.argv[2])
from PIL import Image
from transformers.utils import is_torchvision_available
from modeling_coma import ComaProcessor
from trainers.backbone import model_from_backbone

assert not is_torchvision_available()
image = Image.new("RGB", (60, 40), "red")
found = {}


def attempt(function, *args):
    try:
        return function(*args)
    except (ImportError, ValueError) as error:
        return str(error)


for family, backbone in json.loads(sys.argv[3]).items():
    made = attempt(model_from_backbone, backbone, 4)
    found[family] = {"made": made if isinstance(made, str) else True}
    processor = attempt(ComaProcessor.from_pretrained, Path(sys.argv[1]) / family)
    for name, item in {"text": "a red apple", "image": image}.items():
        batch = processor if isinstance(processor, str) else attempt(processor.process, [item])
        found[family][name] = batch if isinstance(batch, str) else batch["input_ids"].tolist()
print("found:" + json.dumps(found))
"""


@pytest.fixture(scope="module")
def without_torchvision(saved, family_folder):
    folders = json.dumps({family: str(family_folder(family)) for family in EVERY})
    words = [sys.executable, "-c", WITHOUT_TORCHVISION, str(saved), str(Path(__file__).parents[2]), folders]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.partition("found:")[2])


@every_family
def test_without_torchvision_what_can_be_made_is_and_the_rest_asks_for_it(family, processor, without_torchvision):
    found = without_torchvision[family]
    asks = r"^[^\n]* requires the Torchvision library [^\n.]*: install what is missing \(.*`pip install .*`\)\.$"
    if family in NEED_IT_TO_LOAD:
        assert "torchvision" in found["text"]
        assert re.search(r": install what is missing \(torchvision: `pip install .*`\)\.$", found["made"])
        return
    assert found["text"] == processor.process(["a red apple"])["input_ids"].tolist()
    if family in NEED_IT_FOR_IMAGES:
        assert re.search(asks, found["image"]) and re.search(asks, found["made"])
    else:
        image = Image.new("RGB", (60, 40), "red")
        assert found["image"] == processor.process([image])["input_ids"].tolist()
        assert found["made"] is True
