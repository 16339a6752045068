"""LocoReg in a training loop of your own: two lines more than plain weight decay.

Run: python examples/own_loop.py
"""

import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

from convprior import LocoReg, create_model


def main(epochs: int = 5) -> float:
    """Trains a small network on 8x8 digits and returns its accuracy on the last 400."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target)

    model = create_model("plain_cnn", num_classes=10, in_chans=1, small_input=True, seed=0)
    groups = LocoReg.param_groups(model, weight_decay=5e-3)  # no second decay on the filters
    optimizer = torch.optim.AdamW(groups, lr=3e-3)
    locality = LocoReg(model, strength=2.5e-3)  # half of weight_decay: the same mean decay

    order = torch.Generator().manual_seed(0)
    for epoch in range(epochs):
        for batch in torch.randperm(1397, generator=order).split(50):
            loss = cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            locality.decay_(lr=3e-3)
            optimizer.step()
        model.eval()
        with torch.inference_mode():
            correct = model(images[1397:]).argmax(1) == labels[1397:]
        model.train()
        print(f"epoch {epoch}: accuracy {correct.double().mean():.3f}")
    return float(correct.double().mean())


if __name__ == "__main__":
    main()
