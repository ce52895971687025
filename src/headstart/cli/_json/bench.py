"""What commands on comparisons print."""

from __future__ import annotations

from headstart.cli._json.schema import (
    Schema,
    anything,
    by_name,
    many,
    maybe,
    number,
    of,
    switch,
    text,
    texts,
    thing,
    whole,
)

_INTERVAL = many({"type": ["number", "null"]}, "its two ends at 95 %")
_NOTES = texts("sentences on how it was done")
_PAGE = text("file of the page that was written")


def _comparison(more: Schema) -> Schema:
    return thing(
        "",
        more,
        arm=text("the arm's label"),
        task=maybe(text("of several tasks, which")),
        seeds=whole("runs that were compared"),
        difference=number("mean difference; above zero the arm is better"),
        wins=maybe(whole("seeds in which the arm is better; null if seeds are not shared")),
        p=number("p-value after Holm's adjustment"),
        collapsed=whole("runs of the arm that collapsed"),
        verdict=maybe(text("the verdict; null if the comparison is exploratory")),
        low=number("lower end of the interval at 95 %"),
        high=number("its upper end"),
        low_adjusted=number("lower end at the level of Holm's step"),
        high_adjusted=number("its upper end"),
        could_fail=number("largest share of runs that could collapse, given those that did"),
        paired=switch("whether seeds are shared"),
    )


def _detailed() -> Schema:
    return _comparison(
        thing(
            against=text("the label of what it is compared with"),
            differences=many({"type": ["number", "null"]}, "by seed"),
            seed_names=many({}, "the seeds, in the same order"),
            p_unadjusted=number("p-value before the adjustment"),
            p_least=number("the smallest p-value that so many seeds can give"),
            detectable=number("the difference that so many seeds find with a chance of 80 %"),
            seeds_needed=maybe(whole("about how many seeds would settle it")),
        )
    )


def _overall() -> Schema:
    return thing(
        arm=text("the arm's label"),
        tasks=whole("how many"),
        median=number("of the tasks' mean differences"),
        interquartile_mean=number("mean of the middle half of all differences"),
        wins=whole("tasks on which the arm is better"),
        probability_of_improvement=number("chance that a run of the arm beats one of the baseline"),
        difference=number("mean over tasks; null with fewer than five"),
        p=number("p-value after Holm's adjustment"),
        verdict=maybe(text("on tasks like these; null with fewer than five")),
        low=number("lower end of the interval at 95 %"),
        high=number("its upper end"),
        low_adjusted=number("lower end at the level of Holm's step"),
        high_adjusted=number("its upper end"),
        low_new_task=number("where the difference on a new task lies, lower end"),
        high_new_task=number("its upper end"),
        deviation_between_tasks=number("standard deviation of the true differences between tasks"),
    )


def judgement() -> Schema:
    """Verdicts on anybody's results."""
    run = thing(
        task=maybe(text("of several tasks, which")),
        collapsed=whole("runs that collapsed"),
        runs=whole("all runs"),
        could_fail=number("largest share of runs that could collapse, given those that did"),
    )
    return thing(
        "the verdicts",
        optional=("overall",),
        baseline=text("what all are compared with"),
        arms=many(_comparison(thing(sentence=text("the verdict in a sentence"))), "one per arm and task"),
        overall=many(_overall(), "one per arm, if there are several tasks"),
        baseline_runs=many(run, "the baseline, by task"),
        notes=_NOTES,
        alpha=number("level of the tests"),
        margin=number("smallest difference that matters"),
        higher_is_better=switch("whether a larger score is the better one"),
        rules=texts("how it was decided"),
        files=texts("files that were written"),
    )


def analysis() -> Schema:
    """Verdicts of one experiment."""
    from headstart.bench.analysis.analysis import Failure

    speed = thing(
        "how soon the arm is as good as the baseline in the end",
        target=number("the baseline's final validation accuracy"),
        budget=whole("steps of a trial"),
        steps=by_name({"type": ["number", "null"]}, "steps to the target, by seed; null: not reached"),
        median=number("of the steps"),
        median_share=number("of the budget"),
        median_of_baseline=number("the baseline's own"),
        interval=_INTERVAL,
        interval_estimated=switch("whether the interval rests on an estimate"),
        reached=whole("seeds that reached it"),
    )
    by_seed = by_name({"type": ["number", "null"]}, "by seed")
    arm = thing(
        label=text("its name"),
        spec=text("the method with its options"),
        control=maybe(text("which control it is")),
        of=maybe(text("the arm that it is a control of")),
        sentence=text("the verdict in a sentence"),
        test_accuracy={**by_seed, "description": "test accuracy in percent, or the metric, by seed"},
        scores={**by_seed, "description": "what the verdict rests on, by seed"},
        failed=whole("runs that failed"),
        mean=number("of the scores"),
        area=number("under the validation curve"),
        area_difference=maybe(
            thing("between the arm and the baseline", mean=number("of the differences"), interval=_INTERVAL)
        ),
        steps_to_baseline=maybe(speed),
        init_seconds=number("seconds that the start takes"),
        init_steps=number("how many training steps take as long"),
        diverged=whole("runs that diverged"),
        refusal=maybe(text("why the method refused the model")),
        comparison=maybe({**_detailed(), "description": "the arm against the baseline"}),
    )
    return thing(
        task=anything("name, description, classes, split_seed, test_images"),
        model=anything("name, parameters"),
        training=anything("every setting of how trials trained"),
        baseline=text("what all are compared with"),
        metric=thing("the score", name=text("what is judged"), lower_is_better=switch("whether less is better")),
        margin=number("smallest difference that matters"),
        conclusion=text("what was found and what to do next; empty without a verdict"),
        arms=many(arm, "the baseline first"),
        failures=many(of(Failure), "runs that failed"),
        beyond_controls=many(_detailed(), "each arm against its controls"),
        controls=texts("what the controls show"),
        selection=anything("what a search chose; null without one"),
        missing_trials=whole("trials that are not finished"),
        notes=_NOTES,
        rules=texts("how it was decided"),
        provenance=anything("command, versions, machine, data's fingerprint"),
    )


def overview() -> Schema:
    """Several experiments."""
    row = thing(
        experiment=whole("number of the experiment"),
        arm=text("label there"),
        state=text("the verdict there"),
        p_all_rows=number("p-value, adjusted for all rows of the page"),
    )
    method = thing(
        label=text("the method"),
        configurations=texts("its specs"),
        sentence=text("what it does, in a sentence"),
        primary=switch("whether it is the question, which is judged first"),
        overall=maybe({**_overall(), "description": "over all experiments"}),
        rows=many(row, "one per experiment"),
    )
    head = thing(number=whole("its number"), name=text("task and model"), folder=text("where its trials are"))
    return thing(
        "several experiments",
        methods=many(method, "each with its experiments"),
        experiments=many(thing("", head, analysis()), "each with its own verdicts"),
        notes=_NOTES,
        rules=texts("how it was decided"),
        page=_PAGE,
    )


def forecast() -> Schema:
    """What would be run."""
    from headstart.bench.runs.forecast import ArmForecast

    trial = thing(arm=text("its arm"), seed=whole("its seed"), key=text("its name"), done=switch("whether it is done"))
    arm = of(ArmForecast)
    for key in ("source", "refusal", "shared"):
        arm["properties"][key] = maybe(arm["properties"][key])
    return thing(
        "what would be run",
        trials=many(trial, "every trial"),
        arms=many(arm, "one after the other"),
        search=anything("the same of the search before; null without one"),
        to_do=whole("trials that would be run"),
        seconds=number("what they would take, one after the other"),
    )


def reproduction() -> Schema:
    """A paper's comparisons."""
    from headstart.bench.papers.protocols.base import Note
    from headstart.bench.papers.published import Figure

    comparison = thing(
        name=text("the protocol"),
        deviations=texts("what differs from the paper"),
        notes=many(of(Note), "what became of the paper's defects"),
        published=by_name(of(Figure), "what the paper gives, by arm"),
        measured={**analysis(), "description": "what the trials show"},
        page=_PAGE,
    )
    return thing(
        "published beside measured",
        paper=text("the paper"),
        scale=text("smoke, small or full"),
        comparisons=many(comparison, "one per protocol"),
        left_out=texts("protocols that could not be run, and why"),
        command=text("the command that does the same again"),
        page=_PAGE,
    )


def reproduction_forecast() -> Schema:
    """What a reproduction would run."""
    head = thing(name=text("the protocol"), deviations=texts("what differs from the paper"))
    return thing(
        "what would be run",
        comparisons=many(thing("", head, forecast()), "one per protocol"),
        left_out=texts("protocols that could not be run, and why"),
        out=text("the folder"),
    )


def status() -> Schema:
    """How far an experiment is."""
    from headstart.bench.store.status import Status

    one = thing("how far it is", of(Status), eta=number("seconds until all are finished, at the pace so far"))
    keys = [*one["properties"]]
    return thing("how far it is; of a search that goes on, only search", one, search=maybe(one), optional=keys)


def trial() -> Schema:
    """A trial as a row."""
    return _row(
        thing(
            reason=maybe(text("why it was refused or failed")),
            score=number("what the verdict rests on, where it is not the accuracy"),
            test_accuracy=number("in percent"),
            test_loss=number("on the test split"),
            validation_accuracy=number("at the end, in percent"),
            area=number("under the validation curve, in percent"),
            init_seconds=number("of the start"),
            train_seconds=number("of the training"),
            step_seconds=number("of a training step"),
        )
    )


def point() -> Schema:
    """A point of a learning curve as a row."""
    return _row(
        thing(
            step=whole("finished steps"),
            score=number("where it is not the accuracy"),
            accuracy=number("on the validation split, in percent"),
            loss=number("on the validation split"),
            train_loss=number("of the last steps"),
        )
    )


def _row(more: Schema) -> Schema:
    head = thing(
        task=text("its task"),
        model=text("its model"),
        arm=text("its arm"),
        spec=text("the method with its options"),
        control=maybe(text("which control it is")),
        of=maybe(text("the arm that it is a control of")),
        changes=maybe(text("what it trains with instead: more steps, what a search chose")),
        weights_draw=whole("which draw of the default weights"),
        seed=whole("its seed"),
        key=text("its name"),
        status=text("finished, diverged, refused or failed"),
    )
    return thing("", head, more)
