"""What an exported model answers: logits, calibrated probabilities, where it looks, and if it knows such images."""

import torch
from torch import Tensor, nn

from medistill.models.classifier import Classifier
from medistill.runtime.bundle import LARGEST, LOGITS, MAPS, PROBABILITIES, UNLIKE
from medistill.stress.tap import UnlikeScore, forward_tapped
from medistill.stress.unlike import Unlike
from medistill.task import Calibration, Task
from medistill.views import render_plain


class DeviceModel(nn.Module):
    """A classifier as a device runs it: the module that becomes the graph.

    Attributes:
        outputs: their names, in the order of `forward`'s answers. Maps are among them where the network's head has a
            closed form (`models.heads`): then they cost a few matrix products and no second pass.
    """

    slopes: Tensor
    intercepts: Tensor

    def __init__(self, classifier: Classifier, calibration: Calibration, unlike: Unlike | None = None) -> None:
        """Wrap `classifier`, which does the normalisation itself, in evaluation mode.

        Args:
            classifier: its `config` complete.
            calibration: of its logits, fitted on validation.
            unlike: what it knows of its training images; None: nothing was fitted.
        """
        super().__init__()
        count = len(classifier.config["labels"])
        self.classifier = classifier.eval()
        self.exclusive = calibration.task is Task.MULTICLASS
        self.head = classifier.closed_head()
        for name, values in calibration.written_out(count).items():
            self.register_buffer(name, torch.tensor(values))
        self.unlike = UnlikeScore(unlike) if unlike else None
        maps = (MAPS, LARGEST) if self.head else ()
        self.outputs = (LOGITS, PROBABILITIES, *maps, *((UNLIKE,) if unlike else ()))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """All answers about pixels, uint8 (N, C, S, S), as float32.

        Returns:
            Logits (N, L); probabilities (N, L), once calibrated; where `outputs` has them, the Grad-CAM of every label
            (N, L, h, w), ≥ 0 and unnormalised, at the resolution of the last feature map; and the largest value of
            each (N, L), see `heads.PooledHead` for the source; and the score of `stress.unlike` (N,), above 1 for an
            image unlike those of the training.
        """
        if self.unlike is None:
            features, known = self.classifier.features(render_plain(image)), []
        else:
            _, features, tapped = forward_tapped(self.classifier, render_plain(image))
            known = [self.unlike(tapped)]
        # By the head that makes the maps, so that a runtime sees that both have the same hidden layers.
        logits = self.head.logits(features.mean((2, 3))) if self.head else self.classifier.classify(features)
        calibrated = logits * self.slopes + self.intercepts
        probabilities = calibrated.softmax(1) if self.exclusive else calibrated.sigmoid()
        if self.head is None:
            return logits, probabilities, *known
        maps = self.head.class_maps(features).relu()
        return logits, probabilities, maps, maps.amax((2, 3)), *known
