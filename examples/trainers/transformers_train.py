"""A script with Hugging Face's Trainer, which loads its model from a folder.

headstart compare --trainer "python transformers_train.py --model {start} --seed {seed} --output {dir}" \
    --model config/ --start-format hf --data stripes.py:inputs --metric eval_accuracy \
    --metric-file "{dir}/eval_results.json" --arms auto kaiming --seeds 8 --out runs/hf

The folder config/ holds a config.json, as save_pretrained writes it.
"""

import argparse
from pathlib import Path

from stripes import images
from transformers import AutoModelForImageClassification, Trainer, TrainingArguments

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", required=True)
parser.add_argument("--seed", type=int, default=42)
parser.add_argument("--steps", type=int, default=20)
parser.add_argument("--output", type=Path, required=True)
args = parser.parse_args()


def rows(count: int, seed: int) -> list[dict[str, object]]:
    """Return the images as the trainer takes them."""
    return [{"pixel_values": x, "labels": int(y)} for x, y in zip(*images(count, seed=seed), strict=True)]


model = AutoModelForImageClassification.from_pretrained(args.model)
trainer = Trainer(
    model,
    TrainingArguments(
        str(args.output),
        max_steps=args.steps,
        learning_rate=2e-3,
        seed=args.seed,
        report_to=[],
        save_strategy="no",
        per_device_train_batch_size=32,
        use_cpu=True,
        disable_tqdm=True,
    ),
    train_dataset=rows(256, 0),
    eval_dataset=rows(128, 1),
    compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())},
)
trainer.train()
trainer.save_metrics("eval", trainer.evaluate())
