"""A script like nnU-Net's: it takes a torch file with ``network_weights`` and leaves the ``seg_layers`` as they are.

headstart compare --trainer "python nnunet_train.py -pretrained_weights {start} --seed {seed} --out {out} \
    --extra {extra}" --model stripes.py:Segmenter --start-format nnunet --data stripes.py:volumes_alone --metric dice \
    --trainer-steps 15 --arms auto kaiming --seeds 8 --out runs/segmentation
"""

import argparse

import torch
from stripes import Segmenter, volumes

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("-pretrained_weights", required=True)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--steps", type=int, default=15)
parser.add_argument("--extra", type=int, default=0)
parser.add_argument("--out", required=True)
args = parser.parse_args()

torch.manual_seed(args.seed)
model = Segmenter()
start = torch.load(args.pretrained_weights, weights_only=True)["network_weights"]
own = model.state_dict()
model.load_state_dict({name: value if "seg_layers" in name else start[name] for name, value in own.items()})

x, y = volumes(32)
test_x, test_y = volumes(16, seed=1)
optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.99, nesterov=True)
points = ["step,dice"]
for step in range(1, args.steps + args.extra + 1):
    batch = torch.randint(0, len(x), (4,))
    fine, coarse = model(x[batch])
    smaller = torch.nn.functional.max_pool3d(y[batch].float(), 2).long()
    loss = torch.nn.functional.cross_entropy(fine, y[batch]) + torch.nn.functional.cross_entropy(coarse, smaller) / 2
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 5 == 0:
        with torch.no_grad():
            found = model(test_x)[0].argmax(1)
        dice = 2 * (found * test_y).sum() / (found.sum() + test_y.sum())
        points.append(f"{step},{dice.item()}")
with open(args.out, "w") as file:
    file.write("\n".join(points))
