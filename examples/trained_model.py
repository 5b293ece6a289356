"""Load a finished run, classify texts, and save a page that shows which tokens were kept.

    retention run hydra.run.dir=outputs/demo 'compare=[]'
    python examples/trained_model.py outputs/demo

Needs the extra `experiments`.
"""

import argparse

from retention import load

TEXTS = [
    "a gripping film with a fine cast",
    "two hours that I want back",
]


def main() -> None:
    """Classify texts with a trained model at its budget and at a higher one."""
    parser = argparse.ArgumentParser(description="Use the model of a finished run.")
    parser.add_argument("run", help="run folder, or a checkpoint in it")
    parser.add_argument("--rho", type=float, help="target keep ratio; default: the one of the run")
    parser.add_argument("--heatmap", default="kept_tokens.html", help="HTML file to write (default: %(default)s)")
    parser.add_argument("texts", nargs="*", default=TEXTS, help="texts to classify")
    arguments = parser.parse_args()

    model = load(arguments.run, rho=arguments.rho)
    for text, prediction in zip(arguments.texts, model.predict(arguments.texts), strict=True):
        label = ", ".join(prediction.labels)
        print(f"{label} (kept {prediction.keep_ratio:.0%} of the tokens): {text}")
    model.save_heatmap(arguments.texts, arguments.heatmap)
    print(f"wrote {arguments.heatmap}")

    with model.policy.at_budget(0.8):  # one set of weights, another budget
        [prediction] = model.predict(arguments.texts[:1])
    print(f"at a target keep ratio of 0.8: kept {prediction.keep_ratio:.0%}")


if __name__ == "__main__":
    main()
