"""Teach a trained network your own classes: folders of pictures in, a file of weights and a list of classes out.

    python examples/finetune_folder.py photos --weights DEFAULT    # photos/cats/*.jpg, photos/dogs/*.jpg, ...
    python examples/finetune_folder.py photos --weights resnet18-f37072fd.pth
    python examples/finetune_folder.py shapes --demo --model cifar_resnet20 --size 32    # draws pictures first

The backbone keeps its weights, the classifier is new. First it learns alone, with all else frozen (batch normalization
too); then the last stage joins in with a tenth of its learning rate. Without weights there is nothing to keep, and
everything learns at once. Needs Pillow, the extra `image`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import cnnrs
from cnnrs import Trainer, datasets, models, optim


def draw(folder: Path, each: int = 40) -> None:
    """Draw circles, squares and triangles in all colours, as files."""
    rng = np.random.default_rng(0)
    for name, corners in (("circle", 0), ("square", 4), ("triangle", 3)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            picture = Image.new("RGB", (48, 40), tuple(rng.integers(0, 256, 3).tolist()))
            x, y, radius, turn = rng.integers([14, 14, 7, 0], [34, 26, 13, 90]).tolist()
            colour = tuple(rng.integers(0, 256, 3).tolist())
            if corners:
                ImageDraw.Draw(picture).regular_polygon((x, y, radius), corners, turn, fill=colour)
            else:
                ImageDraw.Draw(picture).ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
            picture.save(folder / name / f"{number}.png")


def main() -> None:
    """Load, freeze, train in two stages, save."""
    parser = argparse.ArgumentParser(description="Fine-tune a network of the zoo on a folder of pictures.")
    parser.add_argument("folder", type=Path, help="holds a folder for every class")
    parser.add_argument("--demo", action="store_true", help="draw pictures into the folder first")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--weights", help="a published tag, or a file")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=5, help="of each stage")
    options = parser.parse_args()
    if options.demo:
        draw(options.folder)

    preprocessing = cnnrs.Preprocessing(resize=options.size * 8 // 7, crop=options.size)
    data = datasets.image_folder(options.folder, preprocessing=preprocessing, on_error="skip")
    print(f"{len(data)} pictures of {', '.join(data.classes)}; skipped: {list(data.skipped) or 'none'}")
    held_out = np.arange(len(data)) % 5 == 0
    train, validation = data.subset(~held_out), data.subset(held_out)

    cnnrs.manual_seed(0)
    is_file = options.weights is not None and Path(options.weights).is_file()
    published = None if is_file else options.weights
    model = models.get_model(options.model, num_classes=len(data.classes), weights=published)
    if is_file:
        print(cnnrs.load_weights(model, options.weights, strict="backbone"))

    (classifier,) = model.classifier_names
    last_stage = max(name for name, _ in model.named_children() if name.startswith(("layer", "features")))
    stages = {"everything": optim.Adam(lr=1e-3)}
    if options.weights is not None:
        model.freeze()
        groups = [{"params": f"{classifier}.*", "lr": 1e-3}]
        stages = {classifier: optim.Adam(lr=1e-3), last_stage: optim.Adam(lr=1e-4, groups=groups)}
    for stage, optimizer in stages.items():
        model.unfreeze(None if stage == "everything" else stage)
        trainer = Trainer(model, optimizer, seed=0)
        trainer.fit(train, validation, options.epochs, batch_size=16, verbose=False)
        print(f"{stage} learned: validation accuracy {trainer.evaluate(validation)['accuracy']:.1%}")
    model.save("finetuned.safetensors")


if __name__ == "__main__":
    main()
