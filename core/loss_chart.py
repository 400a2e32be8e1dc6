"""The loss and the learning rate of a run, for its page."""
from core.figures import COLOURS, INK, canvas, charted, two_scales
from core.page import Chart


def draw_loss(axis, rows: list[dict]) -> None:
    """rows: of metrics.jsonl, those of training steps"""
    two_scales(axis, [row["step"] for row in rows], rows, ("loss", "loss", COLOURS[0]), ("lr", "learning rate", INK), "-")


def loss_chart(rows: list[dict]) -> Chart:
    return Chart("loss.svg", _chart([row for row in rows if "loss" in row]), "Loss and learning rate", small=True)


@charted
def _chart(rows: list[dict]):
    figure, ((axis,),) = canvas(4.6, 3.2)
    draw_loss(axis, rows)
    return figure
