"""docs/tutorial.md in Python: own images and captions, both stages, evaluation, search, and a folder for the Hub.

Run it in an empty folder, `python …/examples/own_images.py`: about five minutes on two cores. Or cell by cell: editors
that know notebooks run each `# %%`, and `jupytext --to notebook` makes one.
"""

# %% Images and captions: write a folder and two tables. With images of your own, leave this cell out.
import csv
from pathlib import Path

from hub_scripts import create_model, embed_table, evaluate_model, publish_model, search_index
from trainers import ComaCompressionConfig, ComaCompressionTrainer, ComaContrastiveConfig, ComaContrastiveTrainer
from trainers.compression import ComaCompressionCollator
from trainers.data.dialogues import DialogueColumns, load_dialogues
from trainers.data.emoji import STYLES, load_emoji
from trainers.data.pairs import PairColumns, load_pairs
from trainers.evaluation import RetrievalCallback, RetrievalSet


Path("images").mkdir()
for table, styles in {"captions.csv": STYLES[:3], "held-out.csv": STYLES[3:]}.items():
    emoji = load_emoji(styles).filter(lambda row: row["group"] == "animals-nature")
    with open(table, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["image", "question", "caption"])
        for row in emoji:
            path = f"images/{row['id']}-{row['style']}.png"
            row["image"].save(path)
            rows.writerow([path, "What is this?", row["label"]])

# %% A model: a small random one. With a GPU: create_model("Qwen/Qwen2.5-VL-3B-Instruct"), and an adapter below
# (peft_config=lora_config(model), afterwards merge_adapter(trainer.model), both from trainers).
model, processor = create_model("qwen2_5_vl", num_compression_tokens=4, tiny=True, size="demo")

# %% Stage 1. Look at eval_loss beside eval_loss_shuffled_tokens: where they are equal, the answers ignore the images,
# as they do here after 60 steps.
columns = DialogueColumns(images="image", question="question", answer="caption")
args = ComaCompressionConfig(
    output_dir="stage-1",
    max_steps=300,
    per_device_train_batch_size=32,
    learning_rate=1e-3,
    freeze_vision=False,
    logging_steps=10,
    eval_strategy="steps",
    eval_steps=100,
    report_to="none",
)
trainer = ComaCompressionTrainer(
    model,
    args,
    ComaCompressionCollator(processor, compression_instruction=False),
    train_dataset=load_dialogues("captions.csv", columns=columns),
    eval_dataset=load_dialogues("held-out.csv", columns=columns),
    processing_class=processor,
)
trainer.train()

# %% Stage 2. Look at p@1, on images that it is not trained on.
columns = PairColumns(query_image="image", positive_text="caption")
held_out = load_pairs("held-out.csv", columns)
args = ComaContrastiveConfig(
    output_dir="stage-2",
    max_steps=150,
    per_device_train_batch_size=64,
    learning_rate=1.5e-3,
    weight_decay=0.05,
    temperature=0.07,
    bidirectional=True,
    freeze_vision=False,
    logging_steps=10,
    eval_strategy="steps",
    eval_steps=50,
    keep_best="p@1",
    early_stopping_patience=2,
    report_to="none",
)
trainer = ComaContrastiveTrainer(
    model,
    args,
    train_dataset=load_pairs("captions.csv", columns),
    eval_dataset=held_out,
    processing_class=processor,
)
trainer.add_callback(RetrievalCallback(trainer, RetrievalSet.from_rows(held_out)))
trainer.train()
trainer.save_model("my-model")

# %% Evaluation: hit@1 beside chance, and a page of what is found.
results = evaluate_model(
    "my-model",
    "held-out.csv",
    "results",
    columns={"query_image": "image", "positive_text": "caption"},
    html="results/page.html",
)
scores = results["metrics"]["retrieval"]["held-out"]
print(f"hit@1 {scores['hit@1']:.3f}, chance {scores['chance_hit@1']:.3f}")

# %% A search
embed_table("my-model", "held-out.csv", "index.parquet")
for hit in search_index("index.parquet", "rose", k=3):
    print(f"{hit.score:.3f}", hit.row)

# %% To the Hub: everything is prepared and checked, nothing is sent. Without `dry_run` it is.
published = publish_model(
    "my-model", "my-org/my-model", license="apache-2.0", results=["results/results.json"], dry_run="published"
)
print(sum(published.files.values()), "bytes in published/")
