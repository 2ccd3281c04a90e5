"""`ragdist k8s`: a job on Kubernetes through KubeRay. Parse, call one function, print."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from ragdist.results import complain, print_json, show
from ragdist.tracking.progress import relayed

UNCHECKED = 3
"""Exit code of a check that found nothing, but had no schema for Ray's objects."""

k8s = typer.Typer(help="A job on Kubernetes, through KubeRay.", no_args_is_help=True)
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A folder that `ragdist k8s render` wrote.")]
Context = Annotated[str, typer.Option(help="Context of the kubeconfig; empty is the current one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@k8s.command()
def render(
    arguments: Annotated[
        list[str],
        typer.Argument(
            metavar="raft|duet|atm|sweep-raft|sweep-atm|serve RUN|monitoring [SETTINGS.yaml] [KEY=VALUE]...",
            help="Which job, which finished run is to be served (its folder on the storage), or a PodMonitor and a "
            "dashboard of all runs; and settings.",
        ),
    ],
    to: Annotated[Path, typer.Option("--to", "-o", metavar="DIR", help="Folder to write.")],
    standing: Annotated[
        bool, typer.Option("--cluster", help="A RayCluster that stays, for `ray job submit`, in place of a RayJob.")
    ] = False,
    from_runs: Annotated[
        bool, typer.Option("--from-runs", help="Size pods by the rows that runs of this machine made.")
    ] = False,
    nodes: Annotated[
        str, typer.Option(help="Refuse what these machines cannot do, as `ragdist plan` reads them.")
    ] = "",
) -> None:
    """Write the manifests of a job or a service: pods, slots and memory as these settings ask for."""
    from ragdist import planning
    from ragdist.config import loader
    from ragdist.sweeps import trials

    job, *settings = arguments
    if job == "serve":
        paths = planning.render_service(settings[0] if settings else "", settings[1:], to)
    elif job == "monitoring":
        paths = planning.render_monitoring(settings, to)
    else:
        load = trials.load if job.startswith("sweep") else loader.load
        paths = planning.render(load(settings), job, to, standing, from_runs, nodes)  # type: ignore[arg-type]
    show("".join(f"{path}\n" for path in paths), plain=True)


@k8s.command("check")
def check_folder(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Manifests, read recursively.")],
    crds: Annotated[
        Path | None, typer.Option(help="Folder with KubeRay's CustomResourceDefinitions; `docs/kubernetes.md`.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read manifests as the cluster would. Exits 1 with findings, 3 with none but no schema, 0 if all is well."""
    from ragdist.kube import check

    checked = check.check(folder, crds)
    if as_json:
        print_json(dataclasses.asdict(checked))
    else:
        show("".join(f"{finding}\n" for finding in checked.findings), plain=True)
    complain(f"{checked.objects} objects, {len(checked.findings)} findings")
    if checked.unchecked:
        complain(f"schema not checked of {checked.unchecked} Ray objects; name its folder with --crds")
    raise typer.Exit(1 if checked.findings else UNCHECKED if checked.unchecked else 0)


@k8s.command()
def submit(folder: Folder, context: Context = "") -> None:
    """Send the objects and begin the job; one that ended resumes from its run folder."""
    from ragdist.kube import client

    show(f"{client.submit(folder, client.Cluster(context))}\n", plain=True)


@k8s.command()
def status(folder: Folder, context: Context = "", as_json: AsJson = False) -> None:
    """How the job stands, and what each pod waits for. Exits 1 if it failed for good, was refused or was stopped."""
    from rich.table import Table

    from ragdist.kube import client

    found = client.status(folder, client.Cluster(context))
    if as_json:
        print_json(dataclasses.asdict(found))
    else:
        tries = f", {found.failed} tries failed" if found.failed else ""
        show(" ".join(f"{found.name}: {found.state} {found.job}{tries} {found.message}".split()) + "\n", plain=True)
        table = Table("pod", "group", "phase", "why")
        for pod in found.pods:
            table.add_row(pod.name, pod.group, pod.phase, pod.why)
        if found.pods:
            show(table, width=160)
        show("".join(f"{warning}\n" for warning in found.warnings), plain=True)
    client.finished(found)


@k8s.command()
def logs(
    folder: Folder,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the job ends.")] = False,
    context: Context = "",
) -> None:
    """What the job's driver says."""
    from ragdist.kube import client

    for line in client.logs(folder, client.Cluster(context), follow):
        show(f"{relayed(line)}\n", plain=True)


@k8s.command()
def delete(
    folder: Folder,
    storage: Annotated[bool, typer.Option("--storage", help="Claims too, and with them all runs.")] = False,
    context: Context = "",
) -> None:
    """End the job and remove its objects; the storage with its runs stays."""
    from ragdist.kube import client

    for name in client.delete(folder, client.Cluster(context), storage):
        show(f"{name}\n", plain=True)
