"""A prediction for people and for programs: what `medistill predict` prints."""

from medistill.runtime.bundle import DISCLAIMER, CalledAt
from medistill.runtime.predictor import Prediction
from medistill.text import printable


def as_json_object(prediction: Prediction, model: str, point: CalledAt | None) -> dict[str, object]:
    """An image's entry in the JSON list; with an operating point it says which labels are called there."""
    answer: dict[str, object] = {"image": str(prediction.image), "model": model, "disclaimer": DISCLAIMER}
    if prediction.error is not None:
        return {**answer, "error": prediction.error}
    answer["probabilities"] = prediction.probabilities
    if prediction.unlike is not None:
        answer["unlike"] = {"score": prediction.unlike, "marked": prediction.is_unlike}
    if point is not None and prediction.probabilities is not None:
        called = {label: point.calls(label, value) for label, value in prediction.probabilities.items()}
        answer |= {"at": {"kind": point.kind, "promised": point.promised}, "called": called}
    return answer


def in_words(prediction: Prediction, point: CalledAt | None) -> str:
    """An image's labels, the most probable first, and whether they are called; one line each."""
    probabilities = prediction.probabilities or {}
    odd = ": unlike the images that the model knows" if prediction.is_unlike else ""
    lines = [printable(str(prediction.image)) + odd]
    width = max(map(len, probabilities), default=0)
    for label, probability in sorted(probabilities.items(), key=lambda item: -item[1]):
        mark = "" if point is None else {True: "  *", False: "", None: "  ?"}[point.calls(label, probability)]
        lines.append(f"  {label:<{width}}  {probability:.3f}{mark}")
    return "\n".join(lines)
