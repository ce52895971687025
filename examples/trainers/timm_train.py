"""A training script on timm's own functions, with the option by which timm's train.py loads a start.

headstart compare --trainer "python timm_train.py --initial-checkpoint {start} --seed {seed} --output {dir}" \
    --model timm:test_resnet --model-args classes=2 --data stripes.py:inputs --metric eval_top1 \
    --metric-file "{dir}/summary.csv" --arms auto kaiming --seeds 8 --out runs/timm
"""

import argparse
import csv
from pathlib import Path

import torch
from stripes import images
from timm import create_model
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.utils import AverageMeter, accuracy, random_seed

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="test_resnet")
parser.add_argument("--initial-checkpoint", required=True)
parser.add_argument("--seed", type=int, default=42)
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--output", type=Path, required=True)
args = parser.parse_args()

random_seed(args.seed)
model = create_model(args.model, num_classes=2, checkpoint_path=args.initial_checkpoint)
optimizer = create_optimizer_v2(model, "adamw", lr=2e-3, weight_decay=0.01)
scheduler = CosineLRScheduler(optimizer, t_initial=args.epochs)
x, y = images(256)
test_x, test_y = images(256, seed=1)
rows = []
for epoch in range(args.epochs):
    model.train()
    for batch in torch.randperm(len(x)).split(32):
        loss = torch.nn.functional.cross_entropy(model(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    scheduler.step(epoch + 1)
    model.eval()
    top1 = AverageMeter()
    with torch.no_grad():
        for part_x, part_y in zip(test_x.split(64), test_y.split(64), strict=True):
            top1.update(accuracy(model(part_x), part_y)[0].item(), len(part_x))
    rows.append({"epoch": epoch + 1, "eval_top1": top1.avg})
with (args.output / "summary.csv").open("w", newline="") as file:
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)
