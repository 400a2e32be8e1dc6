"""What a person sees of a run: an opening line, a bar, curves, and a page at the end."""
import io
import json
import sys

import torch

from core.distributed import World, is_main
from core.loop import Plan
from core.run import ProgressBar, Run, TensorBoard
from linear_eval.knn import K, TEMPERATURE, knn_accuracy
from linear_eval.probe import few_labels
from ssl.health import Health, features, some
from vision import artifact, augment
from vision.datasets import Dataset

TESTED = 10_000  # test images at most
BANK = 60_000  # training images at most that vote on them


def say(text: str) -> None:
    if is_main():
        print(text, file=sys.stderr, flush=True)


def opening(words, dataset: Dataset, encoder, plan: Plan, run: Run, world: World, notes: list[str]) -> None:
    parameters = sum(p.numel() for p in encoder.parameters()) / 1e6
    size = encoder.spec.image_size
    where = f"{world.size} × {world.device.type}" if world.size > 1 else world.device.type
    say(
        f"{words.chosen.method} on {len(dataset.pretrain):,} images of {dataset.name} at {size} px: "
        f"{encoder.spec.name} ({parameters:.2f} M parameters, {encoder.dim} features), {plan.steps} steps of "
        f"{plan.batch_size} images, {'bf16' if plan.precision else 'fp32'} on {where} → {run.folder}"
    )
    for note in notes:
        say(f"note: {note}")
    if dataset.skipped:
        say(f"note: {len(dataset.skipped)} unreadable files are left out; {run.folder}/skipped.txt lists them")
    if 0 < run.step < plan.steps:
        say(f"going on from step {run.step}")
    elif run.step >= plan.steps:
        say("this run is finished; its report is made again. For another run change a setting, or give another out")


def listen(run: Run, plan: Plan, words, recipe: augment.Recipe, dataset: Dataset) -> None:
    """Attach bar and TensorBoard; leave a picture of what the method will see."""
    if not is_main() or run.step >= plan.steps:
        return
    run.listeners += [TensorBoard(run.folder, run.step), ProgressBar(plan.steps, run.step, words.chosen.method)]
    if run.step == 0:
        indices = torch.arange(min(8, len(dataset.pretrain)))
        run.write("views.png", augment.picture(dataset.pretrain.resized(indices, recipe.size), recipe, words.seed))


def skipped(run: Run, files: dict[str, str]) -> None:
    if files:
        run.write("skipped.txt", "".join(f"{path}\t{why}\n" for path, why in sorted(files.items())))


def curves(run: Run, health: Health) -> None:
    """curves.png: loss and learning rate, accuracy beside its baselines, and the label-free figures."""
    if not is_main() or health.baselines is None:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = run.metrics()
    figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    steps = [r["step"] for r in rows if "loss" in r]
    axes[0].plot(steps, [r["loss"] for r in rows if "loss" in r], color="#0072B2")
    axes[0].set(title="loss", xlabel="step")
    twin = axes[0].twinx()
    twin.plot(steps, [r["lr"] for r in rows if "loss" in r], color="#999999", lw=1)
    twin.set_ylabel("learning rate", color="#777777")

    seen = [0] + [s for s, _ in health.history]
    figures = [health.baselines.untrained] + [f for _, f in health.history]
    if "knn" in figures[0]:
        for name, label, colour in (("knn", f"kNN, k = {K}", "#0072B2"), ("five_labels", "5 labels a class", "#D55E00")):
            axes[1].plot(seen, [f[name] for f in figures], "o-", ms=3, color=colour, label=label)
            axes[1].axhline(health.baselines.pixels[name], color=colour, ls=":", lw=1, label=f"… of raw pixels")
        axes[1].legend(fontsize=8)
    axes[1].set(title="validation accuracy, %" if "knn" in figures[0] else "no labels: no accuracy", xlabel="step")

    axes[2].plot(seen, [f["rankme"] for f in figures], "o-", ms=3, color="#009E73", label="effective rank (RankMe)")
    axes[2].set(title="health", xlabel="step", ylim=(0, None))
    twin = axes[2].twinx()
    twin.plot(seen, [f["feature_std"] for f in figures], "o-", ms=3, color="#CC79A7", label="feature std")
    twin.set_ylim(0, None)
    axes[2].legend(*[a + b for a, b in zip(axes[2].get_legend_handles_labels(), twin.get_legend_handles_labels(), strict=True)], fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=110)
    plt.close(figure)
    run.write("curves.png", buffer.getvalue())


def test_scores(health: Health, dataset: Dataset, encoder) -> dict[str, dict[str, float]]:
    """kNN and five-label accuracy on the test split, for raw pixels and the trained encoder. Nothing was chosen on it."""
    bank, bank_labels = some(dataset.train, BANK, encoder.spec)
    test, labels = some(dataset.test, TESTED, encoder.spec)
    sources = {
        "raw pixels": lambda x: x.flatten(1).float() / 255,
        "trained": lambda x: features(encoder, x, health.recipe, health.device),
    }
    out = {}
    for name, source in sources.items():
        known = source(bank), bank_labels, source(test), labels
        few, spread = few_labels(*known)
        out[name] = {"knn": knn_accuracy(*known, len(dataset.classes)), "five_labels": few, "five_labels_std": spread}
    return out


def final(run: Run, health: Health, dataset: Dataset, encoder, words) -> None:
    """report.md, and the gist of it on the terminal."""
    if not is_main():
        return
    path = run.folder / "encoder.safetensors"
    lines = [f"# {words.chosen.method} on {dataset.name}", "", f"Health: {health.verdict()}", ""]
    if health.bank is not None:
        last, before, pixels = health.history[-1][1], health.baselines.untrained, health.baselines.pixels
        lines += [
            f"Accuracy in %, frozen features. kNN: k = {K}, cosine, weights exp(s/{TEMPERATURE}); 5 labels: logistic regression, "
            "mean of 5 draws.",
            "",
            "| | kNN, validation | 5 labels a class, validation |",
            "|---|---|---|",
            *(
                f"| {name} | {f['knn']:.1f} | {f['five_labels']:.1f} |"
                for name, f in (("raw pixels", pixels), ("untrained encoder", before), ("**pretrained**", last))
            ),
            "",
        ]
        if len(dataset.test) and dataset.test.labels is not None:
            scores = test_scores(health, dataset, encoder)
            run.write("test.json", json.dumps(scores, indent=1))
            lines += [
                "| | kNN, test | 5 labels a class, test |",
                "|---|---|---|",
                *(
                    f"| {name} | {f['knn']:.1f} | {f['five_labels']:.1f} ± {f['five_labels_std']:.1f} |"
                    for name, f in scores.items()
                ),
                "",
            ]
            if scores["trained"]["knn"] < scores["raw pixels"]["knn"]:
                lines += ["Raw pixels are ahead in kNN on this data: small, centred, aligned images suit them.", ""]
    figures = health.history[-1][1]
    lines += [
        f"Label-free: effective rank {figures['rankme']:.1f} of {encoder.dim}, feature std {figures['feature_std']:.3f}, alignment "
        f"{figures['alignment']:.3f}, uniformity {figures['uniformity']:.2f}.",
        "",
    ]
    card = artifact.read_card(path)
    page = [
        *lines,
        "![curves](curves.png)",
        "![views](views.png)",
        "",
        "Load the encoder with plain timm:",
        "",
        "```python",
        "import safetensors.torch, timm, torch",
        artifact.snippet(card, str(path)),
        "```",
        "",
    ]
    run.write("report.md", "\n".join(page))
    print("\n".join([*lines, f"encoder: {path}", f"report:  {run.folder / 'report.md'}", *_next(words)]))


def _next(words) -> list[str]:
    """The next command to try."""
    command = "uv run python -m ssl.pretrain"
    if words.chosen.data == "digits":
        return [f"next:    {command} --method {words.chosen.method} --data fashion_mnist"]
    longer = f"--steps {2 * words.steps}" if words.steps else f"--epochs {2 * words.epochs:g}"
    return [f"next:    {command} --method {words.chosen.method} --data {words.chosen.data} {longer}"]
