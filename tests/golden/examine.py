"""What a saved folder gives: tokens, embeddings, the loss of a dialogue, an answer from the memory.

  python examine.py FOLDER[:FOLDER …] [PLACES OF LIBRARIES]      # prints it as JSON, from the code in each folder

The tests run this where nothing but torch and transformers is known, and call [`examine`] with the installed classes.
"""

import importlib.util
import json
import os
import sys


sys.path += sys.argv[2:] if __name__ == "__main__" else []

import numpy as np
import torch
from PIL import Image


DIALOGUE = [
    {"role": "user", "content": "what is this?"},
    {"role": "assistant", "content": "a red apple"},
    {"role": "user", "content": "what is around it?"},
    {"role": "assistant", "content": "leaves, and a little sky"},
]


def image(width: int, height: int, seed: int) -> Image.Image:
    """Squares of colour in a size that no image processor has to change."""
    squares = np.random.RandomState(seed).randint(0, 256, (height // 4, width // 4, 3))
    return Image.fromarray(squares.repeat(4, axis=0).repeat(4, axis=1).astype(np.uint8))


@torch.no_grad()
def examine(model, processor) -> dict[str, list]:
    wide, square = image(112, 56, 1), image(56, 56, 2)
    blocks = [{"type": "text", "text": "left "}, {"type": "image", "image": square}, {"type": "text", "text": " red"}]
    talk = [{"role": "system", "content": "Find it."}, {"role": "user", "content": blocks}]
    items = ["a red apple on a green tree", wide, {"image": square, "text": "what is this?"}, talk]
    batch = processor.process(items, compression_instruction=True)
    rows = processor.process_dialogues([DIALOGUE] * len(items))
    ids, is_answer = torch.tensor(rows["input_ids"]), torch.tensor(rows["assistant_masks"])
    output = model(**batch, dialogue_input_ids=ids, labels=ids.masked_fill(is_answer == 0, -100))
    asked = processor.process_dialogues([DIALOGUE[:1]] * len(items), add_generation_prompt=True)["input_ids"]
    asked = torch.tensor(asked)
    said = model.generate_from_memory(
        model.compress(**batch), asked, torch.ones_like(asked), max_new_tokens=4, do_sample=False
    )
    return {
        "tokens": batch["input_ids"].tolist(),
        "embeddings": output.embeddings.tolist(),
        "loss": [output.loss.item()],
        "answers": said.tolist(),
    }


if __name__ == "__main__":
    from transformers import AutoModel, AutoProcessor

    assert importlib.util.find_spec("modeling_coma") is None, "the package can be imported: this shows nothing"
    options = {"trust_remote_code": True}
    for place in sys.argv[1].split(os.pathsep):
        coma = AutoModel.from_pretrained(place, attn_implementation="eager", **options)
        assert type(coma).__module__.startswith("transformers_modules.")
        print(json.dumps(examine(coma.eval(), AutoProcessor.from_pretrained(place, **options))))
