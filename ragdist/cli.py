"""The command line: parse, call one function of `runs.py`, print. Results on stdout, progress on stderr."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
import typer.completion
import typer.core
from rich.table import Table

from ragdist import asking, planning, results, runs
from ragdist.cli_k8s import k8s
from ragdist.config import loader
from ragdist.errors import ConfigError, DataError, RagdistError, Stopped
from ragdist.results import complain, print_json, show, show_exported, show_run, show_sweep
from ragdist.sweeps import trials
from ragdist.tracking.progress import visible

USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
"""What typer raises of arguments; it exports no name for it."""

if TYPE_CHECKING:
    from ragdist.evaluation.service import Service


class Commands(typer.core.TyperGroup):
    """The command group; Ctrl-C outside training ends like a stop inside it, not as typer's `Aborted.`, and no argument
    that is complained of steers the terminal."""

    def make_context(self, *of: Any, **more: Any) -> Any:
        """Reads the options before the chosen command."""
        with _plain_usage_errors():
            return super().make_context(*of, **more)

    def invoke(self, ctx: Any) -> Any:
        """Runs the chosen command."""
        try:
            with _plain_usage_errors():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Stopped("stopped; the same command goes on from here") from None


@contextlib.contextmanager
def _plain_usage_errors() -> Iterator[None]:
    try:
        yield
    except USAGE_ERROR as error:
        error.message = visible(error.message)  # type: ignore[attr-defined]
        raise


app = typer.Typer(
    cls=Commands,
    help="Fine-tune language models so that they stay right when retrieval is wrong.",
    epilog="Begin with `ragdist demo`; then `ragdist train raft settings.yaml contexts.oracle_fraction=0.8`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
train = typer.Typer(help="Tune a model.", no_args_is_help=True)
app.add_typer(train, name="train")
sweep = typer.Typer(help="Many runs that differ in some settings, and what is best.", no_args_is_help=True)
app.add_typer(sweep, name="sweep")
app.add_typer(k8s, name="k8s")

Arguments = Annotated[
    list[str] | None, typer.Argument(metavar="[SETTINGS.yaml] [KEY=VALUE]...", help="Settings files and overrides.")
]
To = Annotated[Path | None, typer.Option(help="A new folder.")]
Hub = Annotated[str, typer.Option(metavar="OWNER/NAME", help="Repository on the Hugging Face hub to upload to.")]
Private = Annotated[bool, typer.Option("--private", help="The repository is for you alone.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def main(arguments: list[str] | None = None) -> None:
    """Runs the command and exits: 0 done, 1 a run failed, 2 bad input, 130 stopped.

    SIGTERM, which schedulers send, is taken as Ctrl-C wherever work is not under way that saves itself first.
    """
    # Typer leaves it out with the two options of `add_completion`, which would take five lines of every help.
    typer.completion.completion_init()  # type: ignore[attr-defined]
    with contextlib.suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app(args=arguments)
    except RagdistError as error:
        complain(str(error))
        sys.exit(error.exit_code)


def show_version(wanted: bool) -> None:
    """Prints the version and ends."""
    if wanted:
        from importlib.metadata import version

        show(f"ragdist {version('ragdist')}\n", plain=True)
        raise typer.Exit


@app.callback()
def whole(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Fine-tune language models so that they stay right when retrieval is wrong."""


@app.command()
def init(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[raft|atm|duet] [DOCUMENTS] [QUESTIONS]... [KEY=VALUE]...",
            help="Which system; a folder and files; settings to write.",
        ),
    ] = None,
    machine: Annotated[
        Literal["laptop", "8xH100", "kuberay"] | None, typer.Option("--for", help="Where it is to run.")
    ] = None,
    to: Annotated[Path, typer.Option(help="The file to write.")] = Path("settings.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
) -> None:
    """Write a settings file for your documents and questions."""
    commands = runs.init(arguments or [], machine, to, force)
    complain(f"wrote {to}; next:")
    show("".join(f"{command}\n" for command in commands), plain=True)


@app.command()
def demo(
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="[raft|atm|duet] [KEY=VALUE]...", help="Which system, and overrides.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """A system on SmolLM2-135M, in minutes on two cores.

    It learns from the API documentation of this machine.
    `raft` (the default) tunes a model; `atm` begins with that model and lets an attacker loose on it; `duet` tunes one
    that answers from memory, one that answers from documents, and who decides between them.
    """
    asked = list(arguments or [])
    system = asked.pop(0) if asked and "=" not in asked[0] else "raft"
    show_run(runs.demo(system, asked), as_json)


@train.command("raft")
def train_raft(settings: Arguments = None, as_json: AsJson = False) -> None:
    """Build the data, tune by RAFT, evaluate before and after. The same command goes on where it stopped."""
    show_run(runs.raft(loader.load(settings or [])), as_json)


@train.command("atm")
def train_atm(settings: Arguments = None, as_json: AsJson = False) -> None:
    """Attacker against generator in rounds (ATM), judged before and after each. The same command goes on."""
    show_run(runs.atm(loader.load(settings or [])), as_json)


@train.command("duet")
def train_duet(settings: Arguments = None, as_json: AsJson = False) -> None:
    """Reciter, discoverer and arbiter (DuetRAG), tuned and compared. The same command goes on where it stopped."""
    show_run(runs.duet(loader.load(settings or [])), as_json)


Finished = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")]
Changes = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings of serve, retrieval, evaluation.")
]


@app.command()
def answer(
    question: Annotated[str, typer.Argument(help="In words.")],
    run: Annotated[Path, typer.Option(help="Folder of a finished run.")] = Path("runs/demo"),
    as_json: AsJson = False,
) -> None:
    """Answer a question by a finished run.

    The answer, how sure, from which documents; of DuetRAG, whose it is.
    """
    from ragdist.serving import terminal

    found = asking.answer(question, run)
    if as_json:
        return print_json(dataclasses.asdict(found))
    show(f"{found.text}\n", plain=True)
    complain(terminal.about(found))


@app.command()
def chat(run: Finished, changes: Changes = None, as_json: AsJson = False) -> None:
    """Ask a finished run questions in the terminal.

    A question a line, with retrieval over the run's documents.
    """
    asking.chat(run, changes or [], as_json)


@app.command()
def serve(run: Finished, changes: Changes = None) -> None:
    """Serve a finished run over HTTP, for OpenAI's clients.

    Ctrl-C ends it, when what is under way is answered.

    Example: `ragdist serve runs/demo serve.port=8001 retrieval.count=3`.
    """
    asking.serve(run, changes or [])


@app.command()
def plan(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[raft|atm|duet] [SETTINGS.yaml] [KEY=VALUE]...", help="Which system, and settings."),
    ] = None,
    nodes: Annotated[
        str, typer.Option(help="Machines, such as 2x8xA100-80GB:128cpu:1024GB,1x64cpu:256GB:pool=attack.")
    ] = "",
    from_runs: Annotated[
        bool, typer.Option("--from-runs", help="With --nodes too: count rows that runs of this machine made.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """What a job would take: seats, memory, steps, money.

    Starts nothing; exits 2 if it surely cannot fit.
    """
    from ragdist.plan import layout, tables

    asked = list(arguments or [])
    job: Any = asked.pop(0) if asked and asked[0] in ("raft", "atm", "duet") else "raft"
    made = planning.plan(loader.load(asked), job, nodes, from_runs)
    if as_json:
        print_json(tables.as_json(made))
    else:
        for table in tables.tables(made):
            show(table)
    for warning in layout.check(made):
        complain(f"warning: {warning}")


Several = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SETTINGS.yaml] [KEY=V1,V2,...]...", help="Settings files; what is swept has commas."),
]


@sweep.command("raft")
def sweep_raft(settings: Several = None, as_json: AsJson = False) -> None:
    """RAFT for each combination of values, as `contexts.oracle_fraction=0,0.2,0.4`. The same command goes on."""
    show_sweep(runs.sweep("raft", trials.load(settings or [])), as_json)


@sweep.command("atm")
def sweep_atm(settings: Several = None, as_json: AsJson = False) -> None:
    """ATM for each combination of values, as `atm.kl_weight=0,0.1,0.2`. The same command goes on."""
    show_sweep(runs.sweep("atm", trials.load(settings or [])), as_json)


@app.command()
def submit(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[raft|atm|duet|sweep-raft|sweep-atm] [SETTINGS.yaml] [KEY=VALUE]...", help="Job, and settings."
        ),
    ] = None,
    address: Annotated[
        str, typer.Option(envvar=["RAY_API_SERVER_ADDRESS"], help="The dashboard of the cluster's head.")
    ] = "http://127.0.0.1:8265",
    working_dir: Annotated[
        Path | None, typer.Option(help="A folder to send along, the job's own there; relative paths are below it.")
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Leave this out of it, as in .gitignore; repeat.")] = None,
    driver: Annotated[float | None, typer.Option("--driver-gpus", "--driver-cpus", hidden=True)] = None,
    follow: Annotated[bool, typer.Option(help="Show the job's log until it ends, and end as it did.")] = True,
    as_json: AsJson = False,
) -> None:
    """Run a job on a cluster, by Ray's job server, and follow it.

    The same command follows it again, and goes on where it stopped. Ctrl-C ends the watching, not the job.
    """
    if driver is not None:
        raise ConfigError(
            "--driver-gpus and --driver-cpus are gone: models are asked by ranks of their own; set "
            "evaluation.answerers.workers, evaluation.answerers.gpus_per_worker"
        )
    asked = list(arguments or [])
    job = asked.pop(0) if asked else ""
    settings = trials.load(asked) if job.startswith("sweep-") else loader.load(asked)
    sent = runs.submit(
        job,
        settings,
        address,
        (sys.stderr if as_json else sys.stdout) if follow else None,
        working_dir=working_dir,
        excluded=exclude or (),
    )
    if as_json:
        print_json(dataclasses.asdict(sent))
    elif not follow:
        show(f"{sent.id}\n", plain=True)
    if sent.exit_code:
        complain(f"{sent.id} ended as {sent.status}")
        sys.exit(sent.exit_code)


Models = Annotated[
    list[str] | None,
    typer.Option(help="Folder, hub id or address (https://host/v1#NAME), or LABEL=SOURCE; repeat for several."),
]
Attacks = Annotated[list[str] | None, typer.Option(help="Name of an attack; repeat for several.")]
Defences = Annotated[
    list[str] | None, typer.Option("--defence", help="Ask models under a defence too, by its name; repeat for several.")
]
Grid = Annotated[bool, typer.Option("--grid", help="Lists of many sizes and shares of forged documents.")]


ServiceAt = Annotated[str, typer.Option("--service", help="Address of a whole RAG service, asked in place of models.")]
CorpusTo = Annotated[str, typer.Option(help="Folder that the service reads, or address that takes POST and DELETE.")]
Then = Annotated[str, typer.Option(help="Command that has the service read it; none waits for Enter.")]


def _service(address: str, place: str, command: str) -> Service | None:
    if bool(address) != bool(place) or (command and not address):
        raise ConfigError("--service ADDRESS and --corpus-to FOLDER go together, perhaps with --then COMMAND")
    if not place:
        return None
    from ragdist.evaluation.service import HookedService, RagService

    if "://" not in place:
        return RagService(address, Path(place), command)
    if command:
        raise ConfigError("--then COMMAND goes with a folder; an address of --corpus-to answers when it has read all")
    return HookedService(address, place)


@app.command()
def evaluate(
    settings: Arguments = None,
    model: Models = None,
    attack: Attacks = None,
    grid: Grid = False,
    defence: Defences = None,
    service: ServiceAt = "",
    corpus_to: CorpusTo = "",
    then: Then = "",
    as_json: AsJson = False,
) -> None:
    """Ask models the test questions, also under attack.

    Closed book, oracle, oracle absent, retrieved, attacked; by attacks of your choice; over a grid of lists.
    """
    asked = runs.with_suite(loader.load(settings or []), attack, grid, defence)
    show_run(runs.evaluate(asked, model or [], service=_service(service, corpus_to, then)), as_json)


@app.command()
def matrix(
    settings: Arguments = None,
    model: Models = None,
    attack: Attacks = None,
    defence: Defences = None,
    service: ServiceAt = "",
    corpus_to: CorpusTo = "",
    then: Then = "",
    as_json: AsJson = False,
) -> None:
    """Models, or a service, against attacks.

    All attacks, or those of --attack.
    Example: `ragdist matrix settings.yaml --model base=org/model --model RAFT=runs/mine/model`.
    """
    asked = runs.with_suite(loader.load(settings or []), attack or ["all"], defences=defence)
    show_run(runs.evaluate(asked, model or [], service=_service(service, corpus_to, then)), as_json)


@app.command()
def reproduce(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="A file, or a name as of jobs/tables.")],
    settings: Arguments = None,
    as_json: AsJson = False,
) -> None:
    """Train every row of a table, and judge all alike.

    Published numbers stand beside. The same command goes on where it stopped.
    """
    made = runs.reproduce(table, settings or [])
    if as_json:
        return print_json(made.sheet().numbers)
    results.show_sheet(made.sheet())
    complain(f"table {made.folder / 'table.md'}\nreport {made.folder / 'report.html'}")


@app.command("attacks")
def show_attacks(as_json: AsJson = False) -> None:
    """Attacks by name, and which of them models may learn from."""
    from ragdist.data.attacks import registry

    named = {"attack": "name", "for": "purpose", "what it does": "about", "source": "source"}
    _show_plugins(registry.every(), named, as_json)


@app.command("defences")
def show_defences(as_json: AsJson = False) -> None:
    """Defences by name, for --defence."""
    from ragdist.data.defences import registry

    _show_plugins(registry.every(), {"defence": "name", "what it does": "about", "source": "source"}, as_json)


def _show_plugins(found: Iterable[Any], named: Mapping[str, str], as_json: bool) -> None:
    """A table of these fields, by what heads their column."""
    rows = [{key: str(getattr(one, key)) for key in named.values()} for one in found]
    if as_json:
        return print_json(rows)
    table = Table(*named)
    for row in rows:
        table.add_row(*row.values())
    show(table)


@app.command()
def gate(
    settings: Arguments = None,
    model: Models = None,
    attack: Attacks = None,
    grid: Grid = False,
    defence: Defences = None,
    max_misled: Annotated[
        float | None, typer.Option(help="Most that an attack may turn wrong of what is right without it, 0 to 1.")
    ] = None,
    min_clean: Annotated[float | None, typer.Option(help="Least Subspan EM where nobody attacks, 0 to 1.")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit's XML here.")] = None,
    sarif: Annotated[Path | None, typer.Option(help="Write SARIF 2.1.0 here.")] = None,
    service: ServiceAt = "",
    corpus_to: CorpusTo = "",
    then: Then = "",
    as_json: AsJson = False,
) -> None:
    """Exit 1, with the reason, where a model is misled too often.

    Asks as `evaluate` does, and nothing again.
    """
    results.refuse_no_file(path for path in (junit, sarif) if path)
    at = _service(service, corpus_to, then)
    asked = runs.with_suite(loader.load(settings or []), attack, grid, defence)
    verdict = runs.gate(asked, model or [], max_misled=max_misled, min_clean=min_clean, service=at)
    place = next((name for name in settings or [] if Path(name).is_file()), "settings.yaml")
    results.write_verdict(verdict, place, junit, sarif)
    print_json(verdict.sheet().numbers) if as_json else results.show_sheet(verdict.sheet())
    if verdict.failed:
        complain(verdict.why)
        sys.exit(1)


@app.command()
def build(
    settings: Arguments = None,
    until: Annotated[str, typer.Option(help="Last stage to make.")] = "examples",
    as_json: AsJson = False,
) -> None:
    """Make the data, stage by stage; finished ones are reused.

    Stages are chunks, questions, forgeries, candidates, contexts, examples.
    """
    made = runs.build(loader.load(settings or []), until)
    if as_json:
        return print_json([{"stage": name, "rows": len(rows), "folder": str(rows.folder)} for name, rows in made])
    table = Table("stage", "rows", "folder", "notes", title="The data pipeline", title_justify="left")
    for name, rows in made:
        counted = {key: len(v) if isinstance(v, list) else v for key, v in rows.card["counts"].items()}
        notes = ", ".join(f"{key} {value}" for key, value in counted.items() if value)
        table.add_row(name, f"{len(rows):,}", str(rows.folder), notes)
    show(table)


@app.command()
def audit(
    settings: Arguments = None,
    picture: Annotated[Path | None, typer.Option(help="Write a PNG here.")] = None,
    as_json: AsJson = False,
) -> None:
    """What the training data really is.

    Realised P%, oracle positions, duplicates, leakage, quotes, lengths.
    """
    from ragdist.data import audit as auditing

    found = runs.audit(loader.load(settings or []), picture)
    print_json(auditing.as_json(found)) if as_json else show(auditing.table(found))
    if found.impossible:
        raise DataError("; ".join(found.impossible))


@app.command()
def export(
    model: Annotated[str, typer.Argument(metavar="RUN_OR_MODEL", help="A run's folder, a model's folder or a hub id.")],
    to: To = None,
    form: Annotated[
        Literal["merged", "adapter", "gguf"],
        typer.Option(help="The whole model, its adapter alone, or one file for llama.cpp and Ollama."),
    ] = "merged",
    base: Annotated[str, typer.Option(help="Hub id of the base model, for the card and the adapter.")] = "",
    hub: Hub = "",
    private: Private = False,
    as_json: AsJson = False,
) -> None:
    """Hand a tuned model on: a plain folder or a hub repository."""
    show_exported(runs.export_model(model, to, hub, private, form=form, base=base), as_json)


@app.command("export-data")
def export_data(
    settings: Arguments = None,
    to: To = None,
    form: Annotated[
        Literal["hf", "completion", "chat", "eval"],
        typer.Option(help="Columns of RAFT, prompt and completion, messages, or questions to be judged by."),
    ] = "hf",
    forgeries: Annotated[
        bool, typer.Option("--forgeries", help="Forged documents too, in a file of their own.")
    ] = False,
    licence: Annotated[str, typer.Option(help="Licence of the documents, for the card.")] = "",
    stop: Annotated[str, typer.Option(help="Text after each completion; RAFT's own is '<STOP>'.")] = "",
    hub: Hub = "",
    private: Private = False,
    as_json: AsJson = False,
) -> None:
    """Hand the training data on, with a card."""
    how: dict[str, Any] = {"form": form, "forgeries": forgeries, "licence": licence, "stop": stop}
    show_exported(runs.export_data(loader.load(settings or []), to, hub, private, **how), as_json)


def _is_below(key: str, sections: list[str]) -> bool:
    return key in sections or key.startswith(tuple(f"{section.rstrip('.')}." for section in sections))


@app.command("settings")
def show_settings(
    settings: Arguments = None,
    markdown: Annotated[bool, typer.Option(help="All settings as a page of documentation.")] = False,
    as_json: AsJson = False,
) -> None:
    """All settings with a sentence each, or those of a SECTION.

    With a file or overrides, the values as resolved.
    """
    if markdown:
        return show(loader.markdown(), plain=True)
    rows = [row for row in loader.describe() if not settings or _is_below(row[0], settings)]
    if settings and (not rows or any(Path(name).is_file() for name in settings)):
        resolved = loader.load(settings)
        return print_json(resolved.model_dump(mode="json")) if as_json else show(loader.dump(resolved), plain=True)
    if as_json:
        return print_json([dict(zip(("key", "type", "default", "help"), row, strict=True)) for row in rows])
    table = Table("setting", "default", "what it does")
    for key, kind, default, sentence in rows:
        table.add_row(key, default, f"{sentence} {kind}" if kind.startswith("[") else sentence)
    show(table)


@app.command("runs")
def show_runs(
    folder: Annotated[Path, typer.Argument(help="Parent of the run folders.")] = Path("runs"), as_json: AsJson = False
) -> None:
    """The runs in a folder: state, when, scores."""
    found = results.list_runs(folder)
    if as_json:
        return print_json(found)
    if not found:
        raise ConfigError(f"no runs in {folder}; `ragdist demo` makes one, or name another folder")
    table = Table("run", "job", "state", "when", "scores (Subspan EM), or why it failed")
    for row in found:
        scores = ", ".join(results.score_of(s) for s in row["scores"])
        scores = scores or " ".join(row.get("error", "").split())[:200]
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["time"]))
        table.add_row(row["name"], row["job"], row["state"], when, scores)
    show(table)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs.")],
    metric: Annotated[Literal["subspan", "em", "f1"], typer.Option(help="Several runs: compared by this.")] = "subspan",
    model: Annotated[str, typer.Option(help="Several runs: of this model; else the last that each asked.")] = "",
    output: Annotated[Path | None, typer.Option(help="Several runs: write the comparison's page here.")] = None,
    browse: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    as_json: AsJson = False,
) -> None:
    """A run's web page made anew, or runs compared by question.

    Of several runs the first is what the others are compared with.
    Example: `ragdist report runs/paper runs/mine --output mine.html`.
    """
    if len(folders) == 1:
        page: Path | None = results.remake_page(folders[0])
        print_json({"page": str(page)}) if as_json else show(f"{page}\n", plain=True)
    else:
        found = results.compare_runs(folders, metric, model)
        print_json(found.sheet().numbers) if as_json else results.show_sheet(found.sheet())
        if browse and not output:
            raise ConfigError("--open has no page to open; name a file for it with --output")
        page = results.write_comparison(found, output) if output else None
        if page:
            complain(f"page {page}")
    if browse and page:
        typer.launch(str(page))


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Whether this machine is ready, and what to do if not."""
    from ragdist import doctor as checks

    found = checks.examine()
    if as_json:
        print_json([check.__dict__ for check in found])
    else:
        table = Table("", "check", "found", "if not, then")
        for check in found:
            table.add_row("ok" if check.good else "!!", check.name, check.found, "" if check.good else check.remedy)
        show(table)
    raise typer.Exit(0 if all(check.good for check in found) else 1)
