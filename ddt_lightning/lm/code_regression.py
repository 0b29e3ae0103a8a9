"""Auxiliary loss in training: the code vector of the next image id, regressed from the hidden state.

Cross-entropy treats all ids as equally far from each other; here a guess near the right code costs little. The linear
map is trained with the model and thrown away. Source: Farid et al., arXiv 2510.03075, where a continuous loss beside a
discrete one helps with combinations never seen in training.
"""

from torch import Tensor, nn


class CodeRegression(nn.Module):
    """A linear map from hidden states to the standardised code vectors.

    Args:
        width: D of the hidden states.
        codes: code vectors `[C, d]` of the image ids.
    """

    targets: Tensor

    def __init__(self, width: int, codes: Tensor) -> None:
        super().__init__()
        codes = codes.float()
        scaled = (codes - codes.mean(0)) / codes.std(0).clamp_min(1e-6)
        self.register_buffer("targets", scaled, persistent=False)  # a resumed run reads them from the tokenizer again
        self.to_codes = nn.Linear(width, codes.shape[1])

    def forward(self, hidden: Tensor, labels: Tensor, image_start: int) -> tuple[Tensor, Tensor]:
        """Squared errors, each the mean over a vector's d numbers: guessing the mean vector costs about 1.

        Args:
            hidden: `[B, T, D]`; position t predicts the label at t + 1.
            labels: int64 `[B, T]`.
            image_start: first id of an image, that of code 0.

        Returns:
            Their sum over all image ids, fp32, and how many there are.
        """
        codes = labels[:, 1:] - image_start
        image = (codes >= 0) & (codes < len(self.targets))
        error = self.to_codes(hidden[:, :-1][image]).float() - self.targets[codes[image]]
        return error.square().mean(-1).sum(), image.sum()
